"""Configuration of a distillation run, whatever its windows come from. Importable without torch or Ray."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.ids import settings_fingerprint
from sparrow_core.config import CaptureConfig, DistillConfig, DraftConfig
from sparrow_core.errors import ConfigError


@dataclass(frozen=True)
class DistillWorkers:
    """Processes of each stage and the share of the cluster that each one holds.

    Two training workers of one CPU each would leave a two-CPU machine no room for anything beside them, so the default
    grant is half a CPU; torch then uses `threads` threads all the same.
    """

    capture: int = 1
    train: int = 1
    evaluate: int = 1
    cpus: float = 0.5
    gpus: float = 0.0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("capture", "train", "evaluate", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"workers.{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class DistillRunConfig:
    """What makes a drafter. `blind` trains the ablation whose states are zeroed, in training and decoding alike."""

    target: str
    device: str = "auto"
    dtype: str = "auto"
    blind: bool = False
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    train: DistillConfig = field(default_factory=DistillConfig)
    workers: DistillWorkers = field(default_factory=DistillWorkers)
    schema_version: Literal[1] = 1


@dataclass(frozen=True)
class EvaluationConfig:
    """Draft shapes under which a drafter is measured, each on `windows_per_length` windows of every visual length."""

    lengths: tuple[int, ...] = (64, 512)
    windows_per_length: int = 12
    max_new_tokens: int = 320
    drafts: dict[str, DraftConfig] = field(
        default_factory=lambda: {"chain of 4": DraftConfig.chain(4), "tree of 25": DraftConfig(8, 4, 25)}
    )


def capture_settings(config: DistillRunConfig, windows: dict[str, Any]) -> str:
    """Digest of what decides a captured window: how it is captioned and the window source's own settings.

    The number of windows is no part of it, so that a larger capture continues a smaller one.
    """
    capture = {key: value for key, value in asdict(config.capture).items() if key != "num_windows"}
    return settings_fingerprint({"capture": capture, "windows": windows, "dtype": config.dtype})


def run_name(config: DistillRunConfig, states: str) -> str:
    """Name of a training run: another config, target or capture never continues a run that it does not match.

    `states` identifies the captured windows. The number of workers is left out: it does not change what is learnt.
    """
    settings = {"train": asdict(config.train), "blind": config.blind, "states": states}
    return f"distill-{settings_fingerprint(settings)}"
