"""Many drafters trained side by side, one Ray task each: the cells of a comparison or an ablation.

A cell trains, measures itself on validation windows and leaves a folder that says what it was (one that diverged is as
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
from sparrow_core.distill.store import StateStore
from sparrow_core.distill.trainer import Hooks, StepMetrics, Trainer, Worker
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.drafters.network import SparrowDrafterModel
from sparrow_core.errors import ConfigError, TrainingDivergedError
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

RESULT = "cell.json"
STEPS_BETWEEN_POINTS = 20
TAU_OF_NO_DRAFTER = 1.0


@dataclass(frozen=True)
class Cell:
    """A drafter to train: its name, how, from which states."""

    name: str
    config: DistillRunConfig
    states: Path


@dataclass(frozen=True)
class CellResult:
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


def train_cells(
    cells: Sequence[Cell], output: Path, validation: Validation, listener: Callable[[CellResult], None]
) -> dict[str, CellResult]:
    """Train those that `output` does not hold yet, cells of equal settings once; results by name. Ray must be
    connected. Raises ConfigError where `output` holds one that was measured on other validation windows."""
    results: dict[str, CellResult] = {}
    of_folder: dict[Path, list[Cell]] = defaultdict(list)
    digests = {
        (states, num_windows): StateStore(states, names=numbered_shards(num_windows)).digest
        for states, num_windows in {(cell.states, cell.config.num_windows) for cell in cells}
    }
    for cell in cells:
        of_folder[output / run_name(cell.config, digests[cell.states, cell.config.num_windows])].append(cell)

    def found(folder: Path, content: Mapping[str, Any]) -> None:
        if differing := differing_settings(content["validation"], validation.settings):
            earlier = ", ".join(f"{key}={content['validation'].get(key)!r}" for key in differing)
            raise ConfigError(
                f"{folder} was measured on validation windows with {earlier}; set that as it was, or name another "
                "--output"
            )
        for cell in of_folder[folder]:
            results[cell.name] = CellResult(cell.name, folder, content["tau"], content["curve"], content["settings"])
            listener(results[cell.name])

    waiting = {}
    for folder, (cell, *_) in of_folder.items():
        if content := Folder(str(folder)).read(RESULT):
            found(folder, json.loads(content))
        else:
            options = {"num_cpus": 1, "num_gpus": cell.config.workers.gpus, "max_retries": 1}
            waiting[_train.options(**options).remote(cell, folder, validation)] = folder
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        found(waiting.pop(done), ray.get(done))
    return results


@ray.remote
def _train(cell: Cell, folder: Path, validation: Validation) -> dict[str, Any]:
    """One cell from beginning to end -> the content of its result file."""
    config = cell.config
    torch.set_num_threads(config.workers.threads)
    target = load_target(config.target, device=config.device, dtype=config.dtype)
    store = learnable_store(config, str(cell.states), target.info, numbered_shards(config.num_windows))
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
        save_drafter(folder, drafter, f"# {cell.name}\n")
        tau = greedy_tau(drafter, target, validation.windows, validation.shape)
    except TrainingDivergedError:
        tau = TAU_OF_NO_DRAFTER
    content = {
        "name": cell.name,
        "tau": tau,
        "validation": validation.settings,
        "curve": points,
        "settings": asdict(config),
    }
    Folder(str(folder)).write(RESULT, (json.dumps(content, indent=1) + "\n").encode())
    return content
