"""Stores the chosen drafters of a comparison: the best of each name, with the record of all its trainings.

FOLDER/<name>/                  the drafter, as it is loaded
FOLDER/<name>/training.json     its settings, and the curve of every training under its name
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.registry import TRAINING
from pipeline.comparison.trials import RESULT, TrialResult
from sparrow_core.errors import ConfigError

_SETTINGS = ("train", "capture", "sees", "num_windows")


@dataclass(frozen=True)
class TrainedDrafter:
    """A chosen drafter's folder and learning rate, and one row per training under its name.

    A row holds the name, the learning rate, whether it was chosen, tau on the validation windows, and the curve.
    """

    folder: Path
    learning_rate: float
    trainings: list[dict[str, Any]]


def best_rate(results: Mapping[float, TrialResult]) -> float:
    """The learning rate whose drafter has the highest tau on the validation windows."""
    return max(results, key=lambda rate: results[rate].tau)


def keep_drafter(folder: Path, name: str, results: Mapping[float, TrialResult]) -> TrainedDrafter:
    """Copy the best drafter trained under `name` to `folder`, with the record of all its trainings.

    `results` holds the trials by learning rate. Raises ConfigError if all of them diverged.
    """
    chosen = best_rate(results)
    if not (results[chosen].folder / "config.json").exists():
        rates = ", ".join(f"{rate:g}" for rate in sorted(results))
        raise ConfigError(f"{name!r} diverged at learning rate {rates}: lower it, or move {name!r} to `tuned`")
    destination = folder / re.sub(r"[^\w.]+", "-", name)
    if destination.exists():
        shutil.rmtree(destination)
    shutil.copytree(results[chosen].folder, destination, ignore=shutil.ignore_patterns(RESULT))
    trainings = [
        {"name": name, "learning_rate": rate, "chosen": rate == chosen, "tau": result.tau, "curve": result.curve}
        for rate, result in sorted(results.items())
    ]
    settings = {key: results[chosen].settings[key] for key in _SETTINGS}
    record = {"name": name, "learning_rate": chosen, "settings": settings, "trainings": trainings}
    (destination / TRAINING).write_text(json.dumps(record) + "\n")
    return TrainedDrafter(destination, chosen, trainings)
