"""Training of the paper's comparison: captures windows, trains variants and tunes their learning rates. Resumable.

Owns the order of the work. Callers supply the windows.

    OUTPUT/states-<target>-<settings>/   captured windows, shared by all trials that train on them
    OUTPUT/trials/<run>/                 one trained drafter, with its loss curve and tau on validation windows
    OUTPUT/drafters/<name>/              the best drafter of each name
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.comparison.trained_drafters import best_rate
from pipeline.comparison.trials import Trial, TrialResult
from pipeline.drafters.config import DistillRunConfig
from pipeline.drafters.origin import TrainingWindows, capture_missing


@dataclass(frozen=True)
class Variant:
    """A method or ablation to train: its name, its settings, and the windows to train on."""

    name: str
    config: DistillRunConfig
    windows: TrainingWindows


def capture_all(variants: Sequence[Variant], output: Path) -> dict[str, Path]:
    """Capture the windows that are missing -> the folder of each variant's captured windows, by name.

    Ray must be connected. Raises CheckpointError if a window could not be captured.
    """
    return {variant.name: capture_missing(variant.config, variant.windows, output) for variant in variants}


TrainTrials = Callable[[Sequence[Trial]], Mapping[str, TrialResult]]
"""Trains trials in parallel -> results by name."""


def train_variants(
    variants: Sequence[Variant], rates: Sequence[float], folders: Mapping[str, Path], train: TrainTrials
) -> dict[str, dict[float, TrialResult]]:
    """Train every variant at every learning rate -> results by name and rate."""
    return _train_pairs([(variant, rate) for variant in variants for rate in rates], folders, train)


def tune_variants(
    variants: Sequence[Variant],
    rates: Sequence[float],
    most_rates: int,
    folders: Mapping[str, Path],
    train: TrainTrials,
) -> dict[str, dict[float, TrialResult]]:
    """Train every variant at these learning rates and tune further -> results by name and rate.

    While a variant's best rate is its lowest or its highest, half or twice that rate is tried as well, up to
    `most_rates` rates in total.
    """
    results: dict[str, dict[float, TrialResult]] = {variant.name: {} for variant in variants}
    missing = [(variant, rate) for variant in variants for rate in rates]
    while missing:
        for name, by_rate in _train_pairs(missing, folders, train).items():
            results[name] |= by_rate
        missing = [
            (variant, rate)
            for variant in variants
            if len(results[variant.name]) < most_rates and (rate := _next_rate(results[variant.name]))
        ]
    return results


def _train_pairs(
    pairs: Sequence[tuple[Variant, float]], folders: Mapping[str, Path], train: TrainTrials
) -> dict[str, dict[float, TrialResult]]:
    named = {f"{variant.name} at {rate:g}": (variant, rate) for variant, rate in pairs}
    results = train([Trial(n, _at_rate(v.config, rate), folders[v.name]) for n, (v, rate) in named.items()])
    by_variant: dict[str, dict[float, TrialResult]] = defaultdict(dict)
    for name, (variant, rate) in named.items():
        by_variant[variant.name][rate] = results[name]
    return by_variant


def _next_rate(results: Mapping[float, TrialResult]) -> float | None:
    """The next rate to try if the best one is the lowest or the highest; None if it is neither."""
    best = best_rate(results)
    return best / 2 if best == min(results) else best * 2 if best == max(results) else None


def _at_rate(config: DistillRunConfig, rate: float) -> DistillRunConfig:
    return replace(config, train=replace(config.train, learning_rate=rate))
