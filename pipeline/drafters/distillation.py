"""From a target to a drafter's folder: hidden states, training, publishing, each continued where it was interrupted.

Owns the order of the stages and the rule of when a training begins. Windows come from outside.

    OUTPUT/states-<target>-<settings>/    captured windows
    OUTPUT/training/distill-<config>/     Ray Train's run: checkpoints
    OUTPUT/training/pending.json          windows that the training under way learns from
    OUTPUT/drafter/                       the drafter of the latest run, with what it was made from
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from pipeline.common.storage import Folder
from pipeline.drafters.config import DistillRunConfig, run_name
from pipeline.drafters.hidden_state_sources import HiddenStateSource
from pipeline.drafters.origin import LearningWindows, Origin, prepare_origin
from pipeline.drafters.publishing import captions_learnt, publish
from pipeline.drafters.ray_training import TrainingRun, train_drafter
from pipeline.drafters.training import drafter_geometry
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.errors import SparrowError
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request


@dataclass(frozen=True)
class DistillPolicy:
    """When a training begins, and what is asked before.

    `refuse_target` raises for a fingerprint of a target that no drafter is wanted for. No training begins with fewer
    than `least_new` captions that the drafter of the same recipe did not learn from, nor while that drafter is not
    concluded (`is_concluded`: measured, perhaps judged).
    """

    least_new: int = 1
    refuse_target: Callable[[str], None] = lambda fingerprint: None
    is_concluded: Callable[[Path], bool] = lambda folder: True


@dataclass(frozen=True)
class Distilled:
    """A drafter's folder, which need not exist yet, the captions that it learnt from, and whether this run made it.

    `num_waiting` counts the captions that it did not learn from, if they were too few to begin a training.
    """

    folder: Path
    num_captions: int
    is_new: bool
    num_waiting: int = 0


def distill(
    config: DistillRunConfig,
    windows: LearningWindows,
    output: Path,
    policy: DistillPolicy | None = None,
    validation: Sequence[Callable[[], Request]] = (),
) -> Distilled:
    """All stages. Ray must be connected. With `validation` windows the best checkpoint is chosen on them.

    Raises CheckpointError for hidden states of another target, before anything is trained.
    """
    policy, output = policy or DistillPolicy(), output.absolute()
    info = _target_info(config)
    policy.refuse_target(info.fingerprint)
    origin = prepare_origin(config, windows, output, info)
    pending, folder = _Pending(output / "training" / "pending.json"), output / "drafter"
    source, is_under_way = _source_to_learn_from(origin, pending)
    learnt = captions_learnt(folder, origin.recipe)
    num_new = sum(count for window, count in source.num_captions.items() if window not in learnt)
    may_begin = num_new >= policy.least_new and (not learnt or policy.is_concluded(folder))
    if not is_under_way and not may_begin:
        return Distilled(folder, sum(learnt.values()), is_new=False, num_waiting=num_new)
    pending.begin(origin.recipe, list(source.num_captions))
    geometry = drafter_geometry(config, info, source.bridge_layer)
    name = run_name(config, source.digest)
    drafter = train_drafter(TrainingRun(config, geometry, source, output / "training", name, validation))
    num_captions = publish(folder, drafter, origin, source, name)
    pending.end()
    return Distilled(folder, num_captions, is_new=True)


def _source_to_learn_from(origin: Origin, pending: "_Pending") -> tuple[HiddenStateSource, bool]:
    """What a training learns from, and whether it is one that was interrupted: that goes on with the windows that it
    began with, unless some of them are gone."""
    source, begun = origin.source(), pending.names(origin.recipe)
    if not begun or not set(begun) <= source.num_captions.keys():
        return source, False
    return (origin.source(begun) if len(begun) < len(source.num_captions) else source), True


def _target_info(config: DistillRunConfig) -> TargetInfo:
    """Facts about the target, from a worker that has room for it; the driver may have none."""

    @ray.remote(num_cpus=config.workers.cpus, num_gpus=config.workers.gpus)
    def info() -> TargetInfo:
        return load_target(config.target, device=config.device, dtype=config.dtype).info

    try:
        return ray.get(info.remote())  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SparrowError):
            raise error.cause from error
        raise


class _Pending:
    """Note of the windows that a training under way learns from, since others may come meanwhile."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def names(self, recipe: str) -> list[str] | None:
        """Windows of an unfinished run of this recipe; None if there is none."""
        if not self._file.exists():
            return None
        content = json.loads(self._file.read_text())
        return list(content["names"]) if content["recipe"] == recipe else None

    def begin(self, recipe: str, names: Sequence[str]) -> None:
        content = json.dumps({"recipe": recipe, "names": list(names)}) + "\n"
        Folder(str(self._file.parent)).write(self._file.name, content.encode())

    def end(self) -> None:
        self._file.unlink(missing_ok=True)
