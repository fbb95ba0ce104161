"""The choice of learning rates: tried until the best one is inside the range, and no drafter is trained twice."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.comparison.trained_drafters import best_rate
from pipeline.comparison.training import Variant, tune_variants
from pipeline.comparison.trials import Trial, TrialResult
from pipeline.drafters.config import DistillRunConfig
from pipeline.drafters.origin import TrainingWindows
from sparrow_core.types import Request


def variant(name: str) -> Variant:
    return Variant(name, DistillRunConfig(target="t"), TrainingWindows(lambda number: Request(()), {}))


def octaves(rate: float, other: float) -> float:
    return abs(math.log2(rate / other))


@pytest.mark.parametrize(
    ("best", "most", "tried"),
    [
        (0.002, 5, [0.001, 0.002, 0.004]),
        (0.0005, 5, [0.00025, 0.0005, 0.001, 0.002, 0.004]),
        (0.0001, 5, [0.00025, 0.0005, 0.001, 0.002, 0.004]),
        (0.008, 4, [0.001, 0.002, 0.004, 0.008]),
        (0.008, 3, [0.001, 0.002, 0.004]),
    ],
)
def test_rates_are_tried_until_the_best_is_inside(best: float, most: int, tried: list[float]) -> None:
    bests, trained = {"wide": best, "narrow": 0.002}, []

    def train(trials: Sequence[Trial]) -> dict[str, TrialResult]:
        """Results whose tau falls with the distance of the learning rate from the variant's best one."""
        results = {}
        for trial in trials:
            trained.append(trial.name)
            tau = -octaves(trial.config.train.learning_rate, bests[trial.name.split()[0]])
            results[trial.name] = TrialResult(trial.name, Path(), tau, (), {})
        return results

    folders = dict.fromkeys(bests, Path("states"))
    found = tune_variants([variant(name) for name in bests], [0.001, 0.002, 0.004], most, folders, train)
    assert sorted(found["wide"]) == pytest.approx(tried) and sorted(found["narrow"]) == [0.001, 0.002, 0.004]
    assert len(trained) == len(set(trained)) == len(tried) + 3
    assert best_rate(found["wide"]) == pytest.approx(min(tried, key=lambda rate: octaves(rate, best)))
