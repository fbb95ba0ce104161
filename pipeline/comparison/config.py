"""Settings of the paper's comparison: what every method and ablation changes of the common settings."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.comparison.plan import SPARROW, UNTRAINED, MeasureConfig
from sparrow_core.errors import ConfigError


@dataclass(frozen=True)
class RateChoiceConfig:
    """Validation windows on which learning rates are chosen: so many of each visual length."""

    lengths: tuple[int, ...] = (512, 1500)
    windows_per_length: int = 8


@dataclass(frozen=True)
class PaperConfig:
    """Settings of every drafter (`base`, as for jobs/distill_draft.py), what each method and ablation changes of them,
    and what is measured.

    Methods and `tuned` ablations find their own learning rate among `learning_rates` and, while the best one is the
    lowest or the highest, beyond them, up to `most_rates` rates. Other ablations have Sparrow's.
    """

    base: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    ablations: dict[str, dict[str, Any]] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = (0.001, 0.002, 0.004)
    most_rates: int = 5
    validation: RateChoiceConfig = field(default_factory=RateChoiceConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        trained = [*self.methods, *self.tuned, *self.ablations]
        if twice := sorted(name for name, count in Counter([*trained, *UNTRAINED]).items() if count > 1):
            raise ConfigError(f"methods, tuned and ablations name {', '.join(twice)} more than once: rename one")
        if SPARROW not in self.methods:
            raise ConfigError(f"methods are {', '.join(self.methods)}; all are compared with {SPARROW}: add it")
        if unknown := sorted(set(self.measure.squeezed) - set(trained)):
            raise ConfigError(f"measure.squeezed names {', '.join(unknown)}; there are {', '.join(trained)}")
