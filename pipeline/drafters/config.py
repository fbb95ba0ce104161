"""Configuration of a distillation run, whatever its windows come from. Importable without torch or Ray."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.common.ids import settings_fingerprint
from sparrow_core.config import CaptureConfig, DecodeConfig, DistillConfig, DraftConfig
from sparrow_core.errors import ConfigError

_CPUS_BESIDE = 0.5  # for whatever feeds or measures while training holds its grant


@dataclass(frozen=True)
class DistillWorkers:
    """Processes of each stage and the share of the cluster that each one holds.

    Two training workers of one CPU each would leave a two-CPU machine no room for anything beside them, so the default
    grant is half a CPU; torch then uses `threads` threads all the same. With `train_at_least`, training goes on with
    fewer than `train` workers while the cluster is smaller (elastic), and grows again.
    """

    capture: int = 1
    train: int = 1
    train_at_least: int | None = None
    evaluate: int = 1
    cpus: float = 0.5
    gpus: float = 0.0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("capture", "train", "evaluate", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"workers.{name}={getattr(self, name)} must be at least 1")
        if self.train_at_least is not None and not 1 <= self.train_at_least <= self.train:
            raise ConfigError(
                f"workers.train_at_least={self.train_at_least} must lie between 1 and workers.train={self.train}"
            )

    @property
    def train_range(self) -> int | tuple[int, int]:
        """How many training workers, as Ray Train wants to hear it."""
        return self.train if self.train_at_least is None else (self.train_at_least, self.train)

    @property
    def most_failures(self) -> int:
        """How often training goes on after a worker has failed: more often where machines are known to come and go."""
        return 2 if self.train_at_least is None else 20


def refuse_too_many_workers(workers: DistillWorkers, cluster: Mapping[str, float]) -> None:
    """Raise ConfigError where training workers would fill the cluster: Ray would wait for room without a word."""
    least = workers.train_at_least or workers.train
    for name, each, spare in (("CPU", workers.cpus, _CPUS_BESIDE), ("GPU", workers.gpus, 0.0)):
        have = cluster.get(name, 0.0)
        if least * each + spare > have:
            raise ConfigError(
                f"{least} training workers of {each:g} {name} need {least * each + spare:g} {name}s with what runs "
                f"beside them, but the cluster has {have:g}; lower workers.train or workers.{name.lower()}s"
            )


@dataclass(frozen=True)
class ValidationConfig:
    """After every checkpoint, tau by real decoding on `windows` windows of `length` visual tokens that are neither
    learnt from nor measured on in the end; the checkpoint with the best tau becomes the drafter, rather than the last
    one or the one of the lowest loss. No windows: the last one does."""

    windows: int = 0
    length: int = 512
    draft: DraftConfig = field(default_factory=lambda: DraftConfig.chain(4))

    def __post_init__(self) -> None:
        if self.windows < 0:
            raise ConfigError(f"validation.windows={self.windows} must be 0 (the last checkpoint is taken) or more")


@dataclass(frozen=True)
class DistillRunConfig:
    """What makes a drafter of `num_windows` windows, or of all that lie in the folder `states`.

    Windows are captured before training begins, or, `online`, by every training worker as it comes to them: nothing is
    stored then, and each worker holds the target.

    `draft` drafts the captures, which changes none. `sees` is what the new drafter attends to (`DrafterConfig`),
    `blind` trains the ablation whose states are zeroed, in training and decoding alike.
    """

    target: str
    draft: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    blind: bool = False
    sees: Literal["text", "bridge", "embeddings", "summary"] = "text"
    states: str | None = None
    online: bool = False
    num_windows: int = 384
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    train: DistillConfig = field(default_factory=DistillConfig)
    workers: DistillWorkers = field(default_factory=DistillWorkers)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    schema_version: Literal[1] = 1

    @property
    def reads_embeddings(self) -> bool:
        """Whether the drafter sees visual embeddings."""
        return self.sees in ("embeddings", "summary")

    @property
    def shows_bridge(self) -> bool:
        """Whether the drafter learns from bridge states."""
        return self.sees == "bridge" or (self.sees == "text" and self.train.bridge_share > 0)

    def __post_init__(self) -> None:
        if self.sees == "summary" and self.train.row_tokens:
            raise ConfigError(
                f"sees=summary makes one token of a row's video: train.row_tokens={self.train.row_tokens} must be 0"
            )
        least = self.workers.train_at_least or self.workers.train
        for workers in range(least, self.workers.train + 1):
            self.train.refuse_uneven(workers)
        if self.num_windows < 1:
            raise ConfigError(f"num_windows={self.num_windows} must be at least 1")
        if self.online and self.states:
            raise ConfigError(f"online=true stores no states and reads none: leave out states={self.states}")
        if self.reads_embeddings and not (self.states or self.online or self.capture.keep_embeddings):
            raise ConfigError(
                f"sees={self.sees} learns from visual embeddings: set capture.keep_embeddings=true, or online=true"
            )


@dataclass(frozen=True)
class EvaluationConfig:
    """Draft shapes and temperatures under which a drafter is measured, each on `windows_per_length` windows of every
    visual length, of as many videos."""

    lengths: tuple[int, ...] = (64, 512)
    windows_per_length: int = 12
    temperatures: tuple[float, ...] = (0.0, 1.0)
    max_new_tokens: int = 320
    drafts: dict[str, DraftConfig] = field(
        default_factory=lambda: {"chain of 4": DraftConfig.chain(4), "tree of 25": DraftConfig(8, 4, 25)}
    )

    def __post_init__(self) -> None:
        for name in ("windows_per_length", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluation.{name}={getattr(self, name)} must be at least 1")
        for name in ("lengths", "temperatures", "drafts"):
            if not getattr(self, name):
                raise ConfigError(f"evaluation.{name} is empty: name one at least")
        if min(self.lengths) < 1:
            raise ConfigError(f"evaluation.lengths={list(self.lengths)} are visual tokens: each must be at least 1")


@dataclass(frozen=True)
class TriggerConfig:
    """A run is due once `min_new_captions` were captured since the last one; or any, if over the `recent_windows`
    windows of the captioning run `watch` that the drafter in use drafted last, tau has fallen by more than `max_drop`
    (a share) below what it was measured to be."""

    min_new_captions: int = 1
    watch: str | None = None
    max_drop: float = 0.1
    recent_windows: int = 200

    def __post_init__(self) -> None:
        if self.min_new_captions < 1 or self.recent_windows < 1:
            raise ConfigError(
                f"trigger.min_new_captions={self.min_new_captions} and trigger.recent_windows={self.recent_windows} "
                "must both be at least 1"
            )
        if not 0 <= self.max_drop < 1:
            raise ConfigError(f"trigger.max_drop={self.max_drop} is a share of tau: use a value from 0 to below 1")


@dataclass(frozen=True)
class DrafterRunConfig(DistillRunConfig):
    """A distillation, how its drafter is measured afterwards, and when it is due. Windows of a captioning run are
    decoded again within the limits `decode`."""

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


def capture_settings(config: DistillRunConfig, windows: dict[str, Any]) -> str:
    """Digest of what decides a captured window: how it is captioned and the window source's own settings.

    The number of windows is no part of it, so that a larger capture continues a smaller one.
    """
    return settings_fingerprint({"capture": asdict(config.capture), "windows": windows, "dtype": config.dtype})


def run_name(config: DistillRunConfig, states: str) -> str:
    """Name of a training run: another config, target or capture never continues a run that it does not match.

    `states` identifies the captured windows. The number of workers is left out: it does not change what is learnt.
    """
    settings = {
        "train": asdict(config.train),
        "blind": config.blind,
        "sees": config.sees,
        "validation": asdict(config.validation),
        "states": states,
    }
    return f"distill-{settings_fingerprint(settings)}"
