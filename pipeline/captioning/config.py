"""Settings of a captioning run; those of the method are declared in `sparrow_core.config` and embedded here.

Importable without torch or Ray.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.common.resources import ResourcesConfig
from pipeline.common.settings import build_config, job_settings
from sparrow_core.config import CaptureConfig, DecodeConfig, EngineConfig, FrameSamplingConfig, Sampling
from sparrow_core.errors import ConfigError


@dataclass(frozen=True)
class SegmentConfig:
    """How a video is cut into windows: every `window_s` seconds, or not at all (`window_s` null).

    A remainder shorter than `min_remainder_s` is added to the last window, so that no second of a video is lost.
    """

    window_s: float | None = None
    min_remainder_s: float = 2.0

    def __post_init__(self) -> None:
        if self.window_s is not None and self.window_s <= 0:
            raise ConfigError(f"segment.window_s={self.window_s} must be positive, or null for whole videos")
        if self.min_remainder_s < 0:
            raise ConfigError(f"segment.min_remainder_s={self.min_remainder_s} must be 0 or more")


@dataclass(frozen=True)
class AuditConfig:
    """`share` of the windows is decoded again without the drafter; unless it is 0, a run audits at least one window."""

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"audit.share={self.share} is a share of windows: use a value from 0 to 1")


@dataclass(frozen=True)
class CaptionCaptureConfig:
    """Capture of hidden states for distillation beside captioning, for a `share` of the windows.

    Shards go to `folder` (null: `states` in the output folder) until it holds `max_bytes`. A captured window is decoded
    again from the same prefill, sampled at temperature 1 as `keep` says, up to the caption's `max_new_tokens`
    (`keep.max_new_tokens` applies only to jobs/capture_hidden_states.py). With `own_caption` the caption itself is
    recorded instead, which costs less: no second decoding. Drafters trained on one greedy caption per window reached
    the same tau as those trained on sampled ones (docs/paper_tables.md, `greedy captions alone`).
    """

    share: float = 0.0
    folder: str | None = None
    max_bytes: int = 10 * 2**30
    own_caption: bool = False
    keep: CaptureConfig = field(default_factory=lambda: CaptureConfig(greedy_share=0.0))

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"capture.share={self.share} is a share of windows: use a value from 0 to 1")
        if self.max_bytes < 1:
            raise ConfigError(
                f"capture.max_bytes={self.max_bytes} must be at least 1; capture.share=0 captures nothing"
            )


@dataclass(frozen=True)
class CaptionConfig:
    """All settings of a captioning run, except its input and output.

    `target` and `draft` are folders or hub ids (`draft` may be a registry); without `draft` the target decodes alone.
    With `retry_errors`, a run tries windows again that ended in an error in an earlier run. A part holds
    `windows_per_part` windows, which is the most that a crash can lose; null means 1 in small runs and up to 64 in
    large ones.
    """

    target: str
    draft: str | None = None
    prompt: str = "Describe the video."
    max_new_tokens: int = 256
    device: str = "auto"
    dtype: str = "auto"
    retry_errors: bool = True
    windows_per_part: int | None = None
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    frames: FrameSamplingConfig = field(default_factory=FrameSamplingConfig)
    sampling: Sampling = field(default_factory=Sampling)
    engine: EngineConfig = field(default_factory=EngineConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    capture: CaptionCaptureConfig = field(default_factory=CaptionCaptureConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "windows_per_part"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")


def caption_config(
    file: Path | None, assignments: Sequence[str], flags: Mapping[str, str | None], demo: Mapping[str, Any]
) -> CaptionConfig:
    """The captioning config from `job_settings`."""
    return build_config(CaptionConfig, job_settings(file, assignments, flags, demo))
