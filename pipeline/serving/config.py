"""Settings of the endpoint: those of a captioning run, and those of HTTP. Importable without torch or Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.captioning.config import CaptionConfig
from pipeline.common.settings import build_config, job_settings
from sparrow_core.errors import ConfigError


@dataclass(frozen=True)
class MediaLimits:
    """Limits on the size of a request. No request can raise them.

    `max_body_bytes` limits the HTTP body, embedded videos included; `max_file_bytes` a video file under the media root;
    `max_frame_px` a video's stored frames (height x width), before they are scaled for the target.
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
    """Address and limits of the endpoint.

    Files are read only below `media_root`; without one, no file is read. `model_name` is the name that clients ask for
    (default: the target's name). A replica admits at most `max_requests` requests, running or waiting, and tells other
    clients to retry after `retry_after_s`. It decodes up to `decoders` videos at once. A replica is replaced if its
    engine has work but finishes no step for `stall_limit_s`.
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
    """All settings of the endpoint.

    It takes the settings of a captioning run, so that with the same file both give the same captions. `sampling` and
    `max_new_tokens` are defaults that a request may override. A request brings its own prompt and shows whole videos,
    so `prompt`, `segment`, `audit` and the settings of parts have no effect here. `resources.caption_workers` is the
    number of replicas (default 1).
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
    if isinstance(http, dict):  # build_config reports anything else, together with other faults
        http.update({key: value for key, value in http_flags.items() if value is not None})
    return build_config(ServeConfig, settings)
