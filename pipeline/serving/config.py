"""Settings of the endpoint: those of a captioning run, and what only HTTP needs. Importable without torch or Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.captioning.config import CaptionConfig
from pipeline.common.settings import build_config, job_settings
from sparrow_core.errors import ConfigError


@dataclass(frozen=True)
class MediaLimits:
    """Ceilings on what a request may bring. No request can raise them.

    `max_body_bytes` bounds the HTTP body, videos inside it included; `max_file_bytes` a video under the media root;
    `max_frame_px` the pictures of a video as stored (height x width), before they are scaled for the target.
    """

    max_body_bytes: int = 64 * 2**20
    max_file_bytes: int = 4 * 2**30
    max_videos: int = 2
    max_duration_s: float = 3600.0
    max_frame_px: int = 4096 * 2304

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigError(f"http.limits.{name}={value} must be positive")


@dataclass(frozen=True)
class HttpConfig:
    """Where and to whom the endpoint answers.

    Files are read only under `media_root`, or not at all without one. `model_name` (default: the target's own name) is
    what clients ask for. At most `max_requests` requests are in work or waiting in a replica, the others are told to
    come back after `retry_after_s`; `decoders` videos are decoded at once. A replica is replaced when its engine has
    had work for `stall_limit_s` without finishing a step.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    media_root: str | None = None
    model_name: str | None = None
    max_requests: int = 8
    retry_after_s: int = 5
    decoders: int = 2
    stall_limit_s: float = 600.0
    limits: MediaLimits = field(default_factory=MediaLimits)

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"http.port={self.port} must lie in 1..65535")
        for name in ("max_requests", "retry_after_s", "decoders", "stall_limit_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"http.{name}={getattr(self, name)} must be positive")
        if self.media_root is not None and not Path(self.media_root).is_dir():
            raise ConfigError(f"http.media_root={self.media_root} is not a folder")


@dataclass(frozen=True)
class ServeConfig(CaptionConfig):
    """Everything the endpoint can be told.

    It takes the settings of a captioning run, so that one file gives both the same captions. `sampling` and
    `max_new_tokens` are what a request gets that does not say otherwise; a request brings its own prompt and always
    shows whole videos, so `prompt`, `segment`, `audit` and the settings of parts have no effect here.
    `resources.caption_workers` is the number of replicas (default 1).
    """

    http: HttpConfig = field(default_factory=HttpConfig)


def serve_config(
    file: Path | None,
    assignments: Sequence[str],
    flags: Mapping[str, str | None],
    http_flags: Mapping[str, Any],
    demo: Mapping[str, Any],
) -> ServeConfig:
    """The endpoint's config: file, then `--set`, then flags (None: not given), as for the captioning job."""
    settings = job_settings(file, assignments, flags, demo)
    http = settings.setdefault("http", {})
    if isinstance(http, dict):  # anything else is refused with the other faults
        http.update({key: value for key, value in http_flags.items() if value is not None})
    return build_config(ServeConfig, settings)
