"""The drafters of a comparison, each with the record of how it was trained, in a folder that can be given away.

    FOLDER/<name>/            the drafter, as it is loaded
    FOLDER/<name>/training.json

Whoever has the folder measures the same drafters without training them.
"""

import json
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
    """A drafter, the learning rate that it was chosen at, and a row for every training: its name, learning rate, tau on
    the validation windows, curve, and whether it is the chosen one."""

    folder: Path
    learning_rate: float
    trainings: list[dict[str, Any]]


def best_rate(results: Mapping[float, TrialResult]) -> float:
    """The learning rate whose drafter has the highest tau on the validation windows."""
    return max(results, key=lambda rate: results[rate].tau)


def keep_drafter(folder: Path, name: str, results: Mapping[float, TrialResult]) -> TrainedDrafter:
    """Copy the best of the drafters that were trained under a name, by learning rate, with the record of all. Raises
    ConfigError where all of them diverged."""
    chosen = best_rate(results)
    if not (results[chosen].folder / "config.json").exists():
        rates = ", ".join(f"{rate:g}" for rate in sorted(results))
        raise ConfigError(f"{name!r} diverged at learning rate {rates}: let it find its own among `tuned`, or lower it")
    own = folder / name.replace(" ", "-")
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


def kept_drafters(folder: Path) -> dict[str, TrainedDrafter]:
    """The drafters of a folder, by name. Raises ConfigError where it has none."""
    found = {}
    for path in sorted(folder.glob(f"*/{TRAINING}")):
        record = json.loads(path.read_text())
        found[record["name"]] = TrainedDrafter(path.parent, record["learning_rate"], record["trainings"])
    if not found:
        raise ConfigError(f"{folder} holds no trained drafter (a folder with {TRAINING} each): leave --drafters out")
    return found
