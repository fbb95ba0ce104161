"""Settings of the paper's comparison: the common settings, and what each method and ablation changes in them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.comparison.plan import SPARROW, UNTRAINED, MeasureConfig
from sparrow_core.errors import ConfigError


@dataclass(frozen=True)
class RateChoiceConfig:
    """Validation windows that choose learning rates: `windows_per_length` of each visual length."""

    lengths: tuple[int, ...] = (512, 1500)
    windows_per_length: int = 8


@dataclass(frozen=True)
class PaperConfig:
    """Settings of every drafter (`base`, as for jobs/distill_draft.py), what each method and ablation changes in them,
    and what is measured.

    The learning rate of each method and of each `tuned` ablation is chosen among `learning_rates`. While the best rate
    is the lowest or the highest, further ones are tried, up to `most_rates` in total. Other ablations use Sparrow's.
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
