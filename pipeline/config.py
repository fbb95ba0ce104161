"""Configuration of the jobs: YAML file, then `--set a.b=c`, then flags, checked strictly and frozen.

Owns merging and validation, and the knobs of the pipeline itself; the knobs of the method live in
`sparrow_core.config` and are only embedded here. Importable without torch or Ray.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, ValidationError, create_model
from yaml import YAMLError

from sparrow_core.config import CaptureConfig, DecodeConfig, EngineConfig, FrameSamplingConfig, Sampling
from sparrow_core.errors import ConfigError

Schema = TypeVar("Schema")


@dataclasses.dataclass(frozen=True)
class SegmentConfig:
    """How a video is cut into windows: whole (`window_s` null), or every `window_s` seconds.

    A last piece shorter than `min_remainder_s` joins the window before it, so that no second of a video is lost.
    """

    window_s: float | None = None
    min_remainder_s: float = 2.0

    def __post_init__(self) -> None:
        if self.window_s is not None and self.window_s <= 0:
            raise ConfigError(f"segment.window_s={self.window_s} must be positive, or null for whole videos")
        if self.min_remainder_s < 0:
            raise ConfigError(f"segment.min_remainder_s={self.min_remainder_s} must be 0 or more")


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """`share` of the windows is decoded again without the drafter; a run audits one at least, unless `share` is 0."""

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"audit.share={self.share} is a share of windows: use a value from 0 to 1")


@dataclasses.dataclass(frozen=True)
class CaptionCaptureConfig:
    """What is kept for distillation beside captioning: of a `share` of the windows, until `max_bytes` lie in `folder`
    (null: `states` in the output folder).

    Such a window is decoded again as `keep` says, sampled at temperature 1, on the same prefill, up to the length that
    a caption may have (`keep.max_new_tokens` is for captures of their own). With `own_caption` the caption itself is
    recorded instead, which costs less and teaches less (greedy text ties each state to one token).
    """

    share: float = 0.0
    folder: str | None = None
    max_bytes: int = 10 * 2**30
    own_caption: bool = False
    keep: CaptureConfig = dataclasses.field(default_factory=lambda: CaptureConfig(greedy_share=0.0))

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"capture.share={self.share} is a share of windows: use a value from 0 to 1")
        if self.max_bytes < 1:
            raise ConfigError(
                f"capture.max_bytes={self.max_bytes} must be at least 1; capture.share=0 captures nothing"
            )


@dataclasses.dataclass(frozen=True)
class ResourcesConfig:
    """What the job may take from the cluster. Null means: chosen from what the cluster has (`pipeline.resources`).

    `num_gpus` and `caption_cpus` are per caption worker. `windows_in_flight` is how many windows a caption worker
    accepts at once, so that its engine always finds the next one ready.
    """

    num_gpus: float | None = None
    caption_workers: int | None = None
    caption_cpus: float | None = None
    decode_workers: int | None = None
    windows_in_flight: int = 4

    def __post_init__(self) -> None:
        if self.windows_in_flight < 1:
            raise ConfigError(f"resources.windows_in_flight={self.windows_in_flight} must be at least 1")
        for name in ("caption_workers", "caption_cpus", "decode_workers"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"resources.{name}={value} must be positive, or null to choose it automatically")


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """Everything a captioning run can be told, apart from its input and output.

    `target` and `draft` are folders or hub ids; without `draft` the target decodes alone. `retry_errors` makes a later
    run try windows again that ended in an error. A part holds `windows_per_part` windows, which is what
    a crash can lose; null is 1 in small runs and up to 64 in large ones.
    """

    target: str
    draft: str | None = None
    prompt: str = "Describe the video."
    max_new_tokens: int = 256
    device: str = "auto"
    dtype: str = "auto"
    retry_errors: bool = True
    windows_per_part: int | None = None
    segment: SegmentConfig = dataclasses.field(default_factory=SegmentConfig)
    frames: FrameSamplingConfig = dataclasses.field(default_factory=FrameSamplingConfig)
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)
    audit: AuditConfig = dataclasses.field(default_factory=AuditConfig)
    capture: CaptionCaptureConfig = dataclasses.field(default_factory=CaptionCaptureConfig)
    resources: ResourcesConfig = dataclasses.field(default_factory=ResourcesConfig)
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "windows_per_part"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")


def read_settings(file: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Nested settings of a YAML file with `key.path=value` assignments (values in YAML) laid over it."""
    for assignment in assignments:
        if not assignment.partition("=")[0].strip() or "=" not in assignment:
            raise ConfigError(f"--set {assignment!r} is not of the form key.path=value, such as frames.fps=1.0")
    try:
        from_file = OmegaConf.load(file) if file else OmegaConf.create()
        merged = OmegaConf.merge(from_file, OmegaConf.from_dotlist(list(assignments)))
        settings = OmegaConf.to_container(merged, resolve=True)
    except OSError as error:
        raise ConfigError(f"config file {file} cannot be read: {error.strerror}") from error
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"the settings cannot be read ({file or '--set'}): {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"config file {file} must hold a mapping of settings, not a {type(settings).__name__}")
    return {str(key): value for key, value in settings.items()}


def build_config(schema: type[Schema], settings: Mapping[str, Any]) -> Schema:
    """A frozen config of dataclass `schema` from nested settings. No coercion: "1" is not a number, 1 is not true.

    Raises ConfigError that lists every fault: an unknown key with the nearest valid one, a wrong type, a bad value.
    """
    checked = create_model("Checked", __config__=ConfigDict(extra="forbid", strict=True), config=(schema, ...))
    try:
        # JSON mode is strict about scalars and still builds nested dataclasses from mappings.
        return checked.model_validate_json(json.dumps({"config": settings})).config  # type: ignore[attr-defined,no-any-return]
    except TypeError as error:
        raise ConfigError(f"the settings hold a value that is not plain YAML: {error}") from error
    except ValidationError as error:
        keys = list(_keys(schema))
        raise ConfigError("; ".join(_explain(fault, keys) for fault in error.errors())) from error


def job_settings(
    file: Path | None, assignments: Sequence[str], flags: Mapping[str, str | None], demo: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of a job that runs a target: those of the file, `--set` and flags, or `demo` where they name no target.

    A flag that is None was not given. The draft "none" means no drafter.
    """
    settings = read_settings(file, assignments) | {key: value for key, value in flags.items() if value is not None}
    if "target" not in settings:
        settings = {**demo, **settings}
    if settings.get("draft") == "none":
        settings["draft"] = None
    return settings


def caption_config(
    file: Path | None, assignments: Sequence[str], flags: Mapping[str, str | None], demo: Mapping[str, Any]
) -> CaptionConfig:
    """The captioning config from `job_settings`."""
    return build_config(CaptionConfig, job_settings(file, assignments, flags, demo))


def _keys(schema: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(schema):
        yield prefix + field.name
        for part in (field.type, *get_args(field.type)):  # X, or the X of `X | None`
            if dataclasses.is_dataclass(part):
                yield from _keys(part, f"{prefix}{field.name}.")


def _explain(fault: Any, keys: Sequence[str]) -> str:
    name = ".".join(str(part) for part in fault["loc"][1:]) or "the config"
    if fault["type"] == "unexpected_keyword_argument":
        nearest = difflib.get_close_matches(name, keys, n=1, cutoff=0.0)
        return f"unknown setting {name!r}; the nearest valid one is {nearest[0]!r}"
    if fault["type"] == "missing":
        return f"setting {name!r} is required"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], dict) else f", got {fault['input']!r}"
    return f"{name}: {message}{given}"
