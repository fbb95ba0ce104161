"""The drafters of a comparison: the best of every name, with the record of how it was trained.

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
    """A drafter's folder, its learning rate, and a row for every training under its name: name, learning rate, tau on
    the validation windows, curve, and whether it is the chosen one."""

    folder: Path
    learning_rate: float
    trainings: list[dict[str, Any]]


def best_rate(results: Mapping[float, TrialResult]) -> float:
    """The learning rate whose drafter has the highest tau on the validation windows."""
    return max(results, key=lambda rate: results[rate].tau)


def keep_drafter(folder: Path, name: str, results: Mapping[float, TrialResult]) -> TrainedDrafter:
    """Copy the best of the drafters that were trained under one name, `results` by learning rate, with the record of
    all. Raises ConfigError where all of them diverged."""
    chosen = best_rate(results)
    if not (results[chosen].folder / "config.json").exists():
        rates = ", ".join(f"{rate:g}" for rate in sorted(results))
        raise ConfigError(f"{name!r} diverged at learning rate {rates}: let it find its own among `tuned`, or lower it")
    own = folder / re.sub(r"[^\w.]+", "-", name)
    if own.exists():
        shutil.rmtree(own)
    shutil.copytree(results[chosen].folder, own, ignore=shutil.ignore_patterns(RESULT))
    trainings = [
        {"name": name, "learning_rate": rate, "chosen": rate == chosen, "tau": result.tau, "curve": result.curve}
        for rate, result in sorted(results.items())
    ]
    settings = {key: results[chosen].settings[key] for key in _SETTINGS}
    record = {"name": name, "learning_rate": chosen, "settings": settings, "trainings": trainings}
    (own / TRAINING).write_text(json.dumps(record) + "\n")
    return TrainedDrafter(own, chosen, trainings)
