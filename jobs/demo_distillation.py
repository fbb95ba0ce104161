"""Windows of the demo world for the commands that train and measure drafters."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial

from demo.windows import DemoWindows, Split
from pipeline.drafters.config import DrafterRunConfig
from pipeline.drafters.evaluation import HeldOutWindows
from pipeline.drafters.origin import TrainingWindows
from sparrow_core.errors import ConfigError
from sparrow_core.types import Request

HELD_OUT_SEED, VALIDATION_SEED = 50_000, 30_000


@dataclass(frozen=True)
class DistillJobConfig(DrafterRunConfig):
    """Settings of a drafter run. Unless captured hidden states are given, it trains on `windows` of the demo world."""

    windows: DemoWindows = field(default_factory=lambda: DemoWindows("train", (64, 64, 144, 512), 10**9, True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows.split == "heldout":
            raise ConfigError(
                "windows.split=heldout: drafters are measured on those; train on split train or validation"
            )


def demo_training_windows(config: DistillJobConfig) -> TrainingWindows:
    """The windows to train on that the config names."""
    requests = partial(config.windows.request, max_new_tokens=config.capture.max_new_tokens)
    return TrainingWindows(requests, asdict(config.windows))


def demo_heldout(config: DistillJobConfig) -> HeldOutWindows:
    """Held-out windows that measure drafters."""
    evaluation = config.evaluation
    return {
        length: _requests(config, "heldout", length, HELD_OUT_SEED, evaluation.windows_per_length)
        for length in evaluation.lengths
    }


def demo_validation(config: DistillJobConfig) -> list[Callable[[], Request]]:
    """Validation windows that choose the best checkpoint."""
    return _requests(config, "validation", config.validation.length, VALIDATION_SEED, config.validation.windows)


def _requests(
    config: DistillJobConfig, split: Split, length: int, first_seed: int, count: int
) -> list[Callable[[], Request]]:
    request = DemoWindows(split, (length,), first_seed).request
    return [partial(request, number, config.evaluation.max_new_tokens) for number in range(count)]
