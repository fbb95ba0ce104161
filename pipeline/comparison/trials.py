"""Trials of a comparison or an ablation: drafters trained in parallel, one Ray task each.

A trial trains a drafter, measures its tau on validation windows and writes both to a folder. A trial whose loss
diverges gets the tau of decoding without a drafter. An interrupted run repeats unfinished trials from their beginning;
for checkpoints and several workers, see `drafters.ray_training`.
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
from pipeline.drafters.hidden_state_sources import stored_hidden_states
from pipeline.drafters.training import drafter_geometry, greedy_tau, new_trainer, trained_drafter
from sparrow_core.config import DraftConfig
from sparrow_core.distill.store import HiddenStateStore
from sparrow_core.distill.trainer import Hooks, StepMetrics, Worker
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.errors import ConfigError, TrainingDivergedError
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

RESULT = "trial.json"
STEPS_BETWEEN_POINTS = 20
TAU_WITHOUT_DRAFTER = 1.0


@dataclass(frozen=True)
class Trial:
    """A drafter to train: its name, its settings, and the folder of captured hidden states to train on."""

    name: str
    config: DistillRunConfig
    hidden_states: Path


@dataclass(frozen=True)
class TrialResult:
    """A trained drafter: its folder, its tau on the validation windows, its training curve and its settings.

    A point of the curve is (step, loss, agreement by pass).
    """

    name: str
    folder: Path
    tau: float
    curve: Sequence[tuple[int, float, Sequence[float]]]
    settings: Mapping[str, Any]


class Validation(NamedTuple):
    """Windows that every drafter is measured on after its training, the draft shape, and the settings that identify
    both, as plain JSON values."""

    windows: Sequence[Callable[[], Request]]
    shape: DraftConfig
    settings: Mapping[str, Any]


def train_trials(
    trials: Sequence[Trial], output: Path, validation: Validation, on_trial: Callable[[TrialResult], None]
) -> dict[str, TrialResult]:
    """Train the trials whose results `output` does not hold yet -> all results by name.

    `on_trial` receives each result. Trials with equal settings are trained once. Ray must be connected. Raises
    ConfigError if `output` holds a drafter that was measured on other validation windows.
    """
    results: dict[str, TrialResult] = {}
    by_folder = _by_folder(trials, output)

    def add_results(folder: Path, content: Mapping[str, Any]) -> None:
        _refuse_other_validation(folder, content, validation)
        for trial in by_folder[folder]:
            result = TrialResult(trial.name, folder, content["tau"], content["curve"], content["settings"])
            results[trial.name] = result
            on_trial(result)

    running = {}
    for folder, (trial, *_) in by_folder.items():
        if content := Folder(str(folder)).read(RESULT):
            add_results(folder, json.loads(content))
        else:
            options = {"num_cpus": 1, "num_gpus": trial.config.workers.gpus, "max_retries": 1}
            running[_train.options(**options).remote(trial, folder, validation)] = folder
    while running:
        (done,), _ = ray.wait(list(running))
        add_results(running.pop(done), ray.get(done))
    return results


def _by_folder(trials: Sequence[Trial], output: Path) -> dict[Path, list[Trial]]:
    """Trials by the folder of their result, which is named after their settings and their training data."""
    digests = {
        (folder, num_windows): HiddenStateStore(folder, names=numbered_shards(num_windows)).digest
        for folder, num_windows in {(trial.hidden_states, trial.config.num_windows) for trial in trials}
    }
    by_folder: dict[Path, list[Trial]] = defaultdict(list)
    for trial in trials:
        name = run_name(trial.config, digests[trial.hidden_states, trial.config.num_windows])
        by_folder[output / name].append(trial)
    return by_folder


def _refuse_other_validation(folder: Path, content: Mapping[str, Any], validation: Validation) -> None:
    if differing := differing_settings(content["validation"], validation.settings):
        earlier = ", ".join(f"{key}={content['validation'].get(key)!r}" for key in differing)
        raise ConfigError(
            f"{folder} was measured on validation windows with {earlier}; "
            "restore those settings, or use another --output"
        )


@ray.remote
def _train(trial: Trial, folder: Path, validation: Validation) -> dict[str, Any]:
    """Train and measure one drafter -> the content of its result file."""
    config = trial.config
    torch.set_num_threads(config.workers.threads)
    target = load_target(config.target, device=config.device, dtype=config.dtype)
    curve: list[tuple[int, float, Sequence[float]]] = []

    def add_point(metrics: StepMetrics) -> None:
        if metrics.step % STEPS_BETWEEN_POINTS == 0 or metrics.step + 1 == config.train.steps:
            curve.append((metrics.step, metrics.loss, metrics.agreement))

    names, worker = numbered_shards(config.num_windows), Worker(device=target.info.device)
    source = stored_hidden_states(config, str(trial.hidden_states), target.info, names)
    geometry = drafter_geometry(config, target.info, source.bridge_layer)
    with source.open(worker.device) as opened:
        trainer = new_trainer(config.train, geometry, opened, worker, Hooks(add_point))
        try:
            trainer.run()
            drafter = trained_drafter(geometry, trainer.state_dict())
            save_drafter(folder, drafter, f"# {trial.name}\n")
            tau = greedy_tau(drafter, target, validation.windows, validation.shape)
        except TrainingDivergedError:
            tau = TAU_WITHOUT_DRAFTER
    content = {
        "name": trial.name,
        "tau": tau,
        "validation": validation.settings,
        "curve": curve,
        "settings": asdict(config),
    }
    Folder(str(folder)).write(RESULT, (json.dumps(content, indent=1) + "\n").encode())
    return content
