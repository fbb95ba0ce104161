"""Settings of a distillation run: capture, training, workers, validation, evaluation, triggers.

Importable without torch or Ray. Where windows come from is declared elsewhere.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.common.ids import settings_fingerprint
from sparrow_core.config import CaptureConfig, DecodeConfig, DistillConfig, DraftConfig
from sparrow_core.errors import ConfigError

_SPARE_CPUS = 0.5  # for tasks that feed or validate while training workers hold their CPUs


@dataclass(frozen=True)
class DistillWorkers:
    """Number of worker processes per stage, and the CPUs, GPUs and torch threads of each process.

    `cpus` is what Ray reserves; torch uses `threads` threads regardless. The default is half a CPU, because two
    training workers of one CPU each would leave a two-CPU machine no room for anything else. With `train_at_least`,
    training is elastic: it continues with fewer than `train` workers while the cluster is smaller, and grows again.
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
        """Number of training workers in Ray Train's form: a fixed number, or (least, most) if elastic."""
        return self.train if self.train_at_least is None else (self.train_at_least, self.train)

    @property
    def max_failures(self) -> int:
        """How many worker failures a training run survives: more if it is elastic, where machines come and go."""
        return 2 if self.train_at_least is None else 20


def refuse_too_many_workers(workers: DistillWorkers, cluster: Mapping[str, float]) -> None:
    """Raise ConfigError if the training workers do not fit into the cluster: Ray would wait silently for room."""
    least = workers.train_at_least or workers.train
    for name, each, spare in (("CPU", workers.cpus, _SPARE_CPUS), ("GPU", workers.gpus, 0.0)):
        have = cluster.get(name, 0.0)
        if least * each + spare > have:
            raise ConfigError(
                f"{least} training workers of {each:g} {name} need {least * each + spare:g} {name}s, including "
                f"the tasks beside them, but the cluster has {have:g}; lower workers.train or workers.{name.lower()}s"
            )


@dataclass(frozen=True)
class ValidationConfig:
    """Choice of the best checkpoint: tau is measured after every checkpoint by real decoding.

    It is measured on `windows` windows of `length` visual tokens, which are used neither for training nor for the
    final evaluation. The checkpoint with the highest tau becomes the drafter, not the one with the lowest loss. With 0
    windows, the last checkpoint becomes the drafter.
    """

    windows: int = 0
    length: int = 512
    draft: DraftConfig = field(default_factory=lambda: DraftConfig.chain(4))

    def __post_init__(self) -> None:
        if self.windows < 0:
            raise ConfigError(f"validation.windows={self.windows} must be 0 (the last checkpoint is taken) or more")


@dataclass(frozen=True)
class DistillRunConfig:
    """Settings that determine a drafter, which is trained on `num_windows` windows, or on all windows captured in the
    folder `states`.

    Windows are captured before training begins. With `online`, each training worker holds the target and captures a
    window whenever a step needs it; nothing is stored.

    `draft` is the drafter that speeds up the capture; it does not change the captured captions. `sees` is what the new
    drafter attends to (see `DrafterConfig`). `blind` trains the ablation in which the target's hidden states are
    zeroed, in training and in decoding.
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
        """Whether the drafter attends to visual embeddings, or to a summary of them."""
        return self.sees in ("embeddings", "summary")

    @property
    def shows_bridge(self) -> bool:
        """Whether the drafter is trained with bridge-layer hidden states (IVSB, or `sees=bridge`)."""
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
            raise ConfigError(f"online=true stores and reads no hidden states: leave out states={self.states}")
        if self.reads_embeddings and not (self.states or self.online or self.capture.keep_embeddings):
            raise ConfigError(
                f"sees={self.sees} needs visual embeddings: set capture.keep_embeddings=true, or online=true"
            )


@dataclass(frozen=True)
class EvaluationConfig:
    """Draft shapes (`drafts`) and temperatures at which a drafter is measured.

    Every combination decodes `windows_per_length` windows of each visual length, every window from a different video.
    """

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
                raise ConfigError(f"evaluation.{name} is empty: give at least one")
        if min(self.lengths) < 1:
            raise ConfigError(f"evaluation.lengths={list(self.lengths)} are visual tokens: each must be at least 1")


@dataclass(frozen=True)
class TriggerConfig:
    """When a training run is due: as soon as `min_new_captions` captions are new since the last run.

    One new caption is enough if tau has drifted: in the captioning run `watch`, over the last `recent_windows` windows
    that used the drafter in use, tau lies by more than the share `max_drop` below its recorded evaluation.
    """

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
    """A distillation run with the evaluation that follows it and the trigger that starts it.

    `decode` limits the decoding of videos when windows of a captioning run are read again.
    """

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


def capture_settings(config: DistillRunConfig, windows: dict[str, Any]) -> str:
    """Digest of all settings that shape a captured window: those of the capture and those of the window source.

    The number of windows is not included, so a larger capture continues a smaller one.
    """
    return settings_fingerprint({"capture": asdict(config.capture), "windows": windows, "dtype": config.dtype})


def run_name(config: DistillRunConfig, hidden_states: str) -> str:
    """Name of a training run: a digest of its settings and of `hidden_states`, which identifies the captured windows.

    A run is therefore continued only with the same config, target and capture. The number of workers is not included,
    because it does not change the drafter beyond rounding.
    """
    settings = {
        "train": asdict(config.train),
        "blind": config.blind,
        "sees": config.sees,
        "validation": asdict(config.validation),
        "states": hidden_states,
    }
    return f"distill-{settings_fingerprint(settings)}"
