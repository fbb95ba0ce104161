"""Distillation from target to drafter folder: capture, training, publishing, each resumed after an interruption.

Owns the order of the stages and the decision whether a training begins. Callers supply the windows.

    OUTPUT/states-<target>-<settings>/    captured windows
    OUTPUT/training/distill-<config>/     Ray Train's run: checkpoints
    OUTPUT/training/pending.json          windows of the unfinished training
    OUTPUT/drafter/                       the drafter of the latest run, with its provenance
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from pipeline.common.storage import Folder
from pipeline.drafters.config import DistillRunConfig, run_name
from pipeline.drafters.hidden_state_sources import HiddenStateSource
from pipeline.drafters.origin import Origin, TrainingWindows, prepare_origin
from pipeline.drafters.publishing import captions_learnt, publish
from pipeline.drafters.ray_training import TrainingRun, train_drafter
from pipeline.drafters.training import drafter_geometry
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.errors import SparrowError
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request


@dataclass(frozen=True)
class DistillPolicy:
    """Conditions for a training to begin.

    `refuse_target` gets the target's fingerprint and raises if no drafter is wanted for that target. A training begins
    only with at least `min_new_captions` captions that the previous drafter of the same recipe was not trained on, and
    only if that drafter `is_concluded`: measured, and judged by the registry if there is one.
    """

    min_new_captions: int = 1
    refuse_target: Callable[[str], None] = lambda fingerprint: None
    is_concluded: Callable[[Path], bool] = lambda folder: True


@dataclass(frozen=True)
class DistillResult:
    """A drafter's folder, which may not exist yet, the number of captions that it was trained on, and whether this call
    trained it.

    `num_waiting` counts new captions that no drafter was trained on, because no training could begin.
    """

    folder: Path
    num_captions: int
    is_new: bool
    num_waiting: int = 0


def distill(
    config: DistillRunConfig,
    windows: TrainingWindows,
    output: Path,
    policy: DistillPolicy | None = None,
    validation: Sequence[Callable[[], Request]] = (),
) -> DistillResult:
    """Run all stages, or none if no training may begin. Ray must be connected.

    `validation` windows choose the best checkpoint; without them the last one is taken. Raises CheckpointError for
    hidden states of another target, before any training.
    """
    policy, output = policy or DistillPolicy(), output.absolute()
    info = _target_info(config)
    policy.refuse_target(info.fingerprint)
    origin = prepare_origin(config, windows, output, info)
    pending, folder = _PendingWindows(output / "training" / "pending.json"), output / "drafter"
    source, is_unfinished = _training_source(origin, pending)
    learnt = captions_learnt(folder, origin.recipe)
    num_new = sum(count for window, count in source.num_captions.items() if window not in learnt)
    may_begin = num_new >= policy.min_new_captions and (not learnt or policy.is_concluded(folder))
    if not is_unfinished and not may_begin:
        return DistillResult(folder, sum(learnt.values()), is_new=False, num_waiting=num_new)
    pending.begin(origin.recipe, list(source.num_captions))
    geometry = drafter_geometry(config, info, source.bridge_layer)
    name = run_name(config, source.digest)
    drafter = train_drafter(TrainingRun(config, geometry, source, output / "training", name, validation))
    num_captions = publish(folder, drafter, origin, source, name)
    pending.end()
    return DistillResult(folder, num_captions, is_new=True)


def _training_source(origin: Origin, pending: "_PendingWindows") -> tuple[HiddenStateSource, bool]:
    """The hidden states to train on, and whether they are those of an unfinished training.

    An unfinished training continues with the windows that it began with, unless some of them no longer exist.
    """
    source, begun_with = origin.source(), pending.names(origin.recipe)
    if not begun_with or not set(begun_with) <= source.num_captions.keys():
        return source, False
    return (origin.source(begun_with) if len(begun_with) < len(source.num_captions) else source), True


def _target_info(config: DistillRunConfig) -> TargetInfo:
    """Facts about the target, loaded on a worker, since the driver may lack the memory for it."""

    @ray.remote(num_cpus=config.workers.cpus, num_gpus=config.workers.gpus)
    def info() -> TargetInfo:
        return load_target(config.target, device=config.device, dtype=config.dtype).info

    try:
        return ray.get(info.remote())  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SparrowError):
            raise error.cause from error
        raise


class _PendingWindows:
    """File that lists the windows of an unfinished training, since new ones may be captured meanwhile."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def names(self, recipe: str) -> list[str] | None:
        """Names of the windows of an unfinished training of this recipe; None if there is none."""
        if not self._file.exists():
            return None
        content = json.loads(self._file.read_text())
        return list(content["names"]) if content["recipe"] == recipe else None

    def begin(self, recipe: str, names: Sequence[str]) -> None:
        content = json.dumps({"recipe": recipe, "names": list(names)}) + "\n"
        Folder(str(self._file.parent)).write(self._file.name, content.encode())

    def end(self) -> None:
        self._file.unlink(missing_ok=True)
