"""The plan of the paper's comparison: its settings, its windows, and which methods decode each window."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.comparison.trained_drafters import TrainedDrafter
from pipeline.drafters.config import DistillRunConfig
from sparrow_core.config import DraftConfig
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.drafters.specvlm import SpecVLMDrafter
from sparrow_core.errors import ConfigError
from sparrow_core.measure.methods import MethodKey
from sparrow_core.types import Request

SPARROW = SparrowDrafter.name
UNTRAINED = (SpecVLMDrafter.name, PromptLookupDrafter.name)


@dataclass(frozen=True)
class MeasureConfig:
    """Settings of the measurement, and of the layer study.

    At every length in `lengths`, held-out windows are tried, at most `most_windows`, until `windows` are usable.
    `workers` engines work side by side. All methods draft in the shape `draft`; our autoregressive loop decodes each
    window `loops` times. Methods are measured at all `temperatures`; ablations are greedy, and only on the first
    `ablation_windows` windows of `ablation_lengths`. Drafters named in `squeezed` are measured a second time, greedily,
    with longer videos interpolated into `squeezed_span` positions. The layer study takes `layer_windows` windows of
    `layer_length` visual tokens.

    Raises ConfigError for a count below 1 and for empty `lengths` or `temperatures`.
    """

    lengths: tuple[int, ...] = (512, 1500, 6000, 17000, 25000)
    windows: int = 40
    most_windows: int = 60
    workers: int = 1
    loops: int = 3
    temperatures: tuple[float, ...] = (0.0, 1.0)
    ablation_lengths: tuple[int, ...] = (512, 25000)
    ablation_windows: int = 20
    squeezed: tuple[str, ...] = ()
    squeezed_span: int = 512
    max_new_tokens: int = 320
    draft: DraftConfig = field(default_factory=lambda: DraftConfig.chain(7))
    layer_length: int = 512
    layer_windows: int = 16

    def __post_init__(self) -> None:
        for name in ("windows", "workers", "loops", "squeezed_span", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"measure.{name}={getattr(self, name)} must be at least 1")
        if not self.lengths or not self.temperatures:
            raise ConfigError("measure.lengths and measure.temperatures must each name one at least")


class ScoredWindows(NamedTuple):
    """Held-out windows by visual length and number: their requests, and the share of facts that a caption has right."""

    request: Callable[[int, int], Request]
    score: Callable[[int, int, str], float]


class ComparisonPlan(NamedTuple):
    """The trained drafters of methods and ablations by name, and how they are measured."""

    config: DistillRunConfig
    measure: MeasureConfig
    methods: Mapping[str, TrainedDrafter]
    ablations: Mapping[str, TrainedDrafter]

    @property
    def folders(self) -> dict[str, str]:
        """Folders of all trained drafters, by name."""
        return {name: str(drafter.folder) for name, drafter in {**self.methods, **self.ablations}.items()}

    @property
    def squeezed(self) -> dict[str, str]:
        """Label of each drafter with interpolated positions -> name of the drafter itself."""
        return {f"{name}, squeezed": name for name in self.measure.squeezed}

    def keys(self, length: int, number: int) -> list[MethodKey]:
        """The methods that decode window `number` of a length; the autoregressive loop comes on top of them."""
        every_temperature = (*self.methods, *UNTRAINED)
        with_ablations = length in self.measure.ablation_lengths and number < self.measure.ablation_windows
        ablations = tuple(self.ablations) if with_ablations else ()
        squeezed = [label for label, name in self.squeezed.items() if name in (*self.methods, *ablations)]
        return [
            *(MethodKey(name, temperature) for temperature in self.measure.temperatures for name in every_temperature),
            *(MethodKey(name, 0.0) for name in (*squeezed, *ablations)),
        ]
