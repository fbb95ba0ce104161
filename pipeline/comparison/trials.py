"""Many drafters trained side by side, one Ray task each: the trials of a comparison or an ablation.

A trial trains, measures itself on validation windows and leaves a folder that says what it was (one that diverged is as
good as no drafter); a run that was cut off trains what is missing. Long trainings, several workers and checkpoints are
`distill_run`'s.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from pipeline.common.ids import differing_settings
from pipeline.common.storage import Folder
from pipeline.drafters.capture_run import numbered_shards
from pipeline.drafters.config import DistillRunConfig, run_name
from pipeline.drafters.state_sources import learnable_store
from pipeline.drafters.training import drafter_geometry, greedy_tau
from sparrow_core.config import DraftConfig
from sparrow_core.distill.store import HiddenStateStore
from sparrow_core.distill.trainer import Hooks, StepMetrics, Trainer, Worker
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.drafters.network import SparrowDrafterModel
from sparrow_core.errors import ConfigError, TrainingDivergedError
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

RESULT = "trial.json"
STEPS_BETWEEN_POINTS = 20
TAU_OF_NO_DRAFTER = 1.0


@dataclass(frozen=True)
class Trial:
    """A drafter to train: its name, how, from which states."""

    name: str
    config: DistillRunConfig
    states: Path


@dataclass(frozen=True)
class TrialResult:
    """A trained drafter: its folder, tau on the validation windows, and (step, loss, agreement by pass) on the way."""

    name: str
    folder: Path
    tau: float
    curve: Sequence[tuple[int, float, Sequence[float]]]
    settings: Mapping[str, Any]


class Validation(NamedTuple):
    """Windows that a drafter is measured on when it is trained, the shape of drafts, and what tells both apart from
    others, as plain JSON values."""

    windows: Sequence[Callable[[], Request]]
    shape: DraftConfig
    settings: Mapping[str, Any]


def train_trials(
    trials: Sequence[Trial], output: Path, validation: Validation, on_trial: Callable[[TrialResult], None]
) -> dict[str, TrialResult]:
    """Train those that `output` does not hold yet, trials of equal settings once; results by name. Ray must be
    connected. Raises ConfigError where `output` holds one that was measured on other validation windows."""
    results: dict[str, TrialResult] = {}
    of_folder: dict[Path, list[Trial]] = defaultdict(list)
    digests = {
        (states, num_windows): HiddenStateStore(states, names=numbered_shards(num_windows)).digest
        for states, num_windows in {(trial.states, trial.config.num_windows) for trial in trials}
    }
    for trial in trials:
        of_folder[output / run_name(trial.config, digests[trial.states, trial.config.num_windows])].append(trial)

    def found(folder: Path, content: Mapping[str, Any]) -> None:
        if differing := differing_settings(content["validation"], validation.settings):
            earlier = ", ".join(f"{key}={content['validation'].get(key)!r}" for key in differing)
            raise ConfigError(
                f"{folder} was measured on validation windows with {earlier}; set that as it was, or name another "
                "--output"
            )
        for trial in of_folder[folder]:
            results[trial.name] = TrialResult(trial.name, folder, content["tau"], content["curve"], content["settings"])
            on_trial(results[trial.name])

    waiting = {}
    for folder, (trial, *_) in of_folder.items():
        if content := Folder(str(folder)).read(RESULT):
            found(folder, json.loads(content))
        else:
            options = {"num_cpus": 1, "num_gpus": trial.config.workers.gpus, "max_retries": 1}
            waiting[_train.options(**options).remote(trial, folder, validation)] = folder
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        found(waiting.pop(done), ray.get(done))
    return results


@ray.remote
def _train(trial: Trial, folder: Path, validation: Validation) -> dict[str, Any]:
    """One trial from beginning to end -> the content of its result file."""
    config = trial.config
    torch.set_num_threads(config.workers.threads)
    target = load_target(config.target, device=config.device, dtype=config.dtype)
    store = learnable_store(config, str(trial.states), target.info, numbered_shards(config.num_windows))
    geometry = drafter_geometry(config, target.info, store.header.bridge_layer)
    torch.manual_seed(config.train.seed)
    drafter = SparrowDrafterModel(geometry)
    points: list[tuple[int, float, Sequence[float]]] = []

    def note(metrics: StepMetrics) -> None:
        if metrics.step % STEPS_BETWEEN_POINTS == 0 or metrics.step + 1 == config.train.steps:
            points.append((metrics.step, metrics.loss, metrics.agreement))

    device = target.info.device
    unrolled = UnrolledDrafter(drafter, store.tables(), config.train).to(device)
    try:
        Trainer(unrolled, store, config.train, Worker(device=device), Hooks(note)).run()
        save_drafter(folder, drafter, f"# {trial.name}\n")
        tau = greedy_tau(drafter, target, validation.windows, validation.shape)
    except TrainingDivergedError:
        tau = TAU_OF_NO_DRAFTER
    content = {
        "name": trial.name,
        "tau": tau,
        "validation": validation.settings,
        "curve": points,
        "settings": asdict(config),
    }
    Folder(str(folder)).write(RESULT, (json.dumps(content, indent=1) + "\n").encode())
    return content
