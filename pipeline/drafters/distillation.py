"""From a target to a drafter folder: states captured (or written beside the training), Ray Train around the trainer.

Owns the order of stages, workers and checkpoints. It knows nothing of losses or passes, and windows come from outside.

    OUTPUT/states-<target>-<settings>/    captured windows
    OUTPUT/training/distill-<config>/     Ray Train's run: checkpoints
    OUTPUT/drafter/                       the drafter of the latest run, with what it was made from
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    ValidationConfig,
)
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.metrics import Gauge
from torch.utils.tensorboard import SummaryWriter

from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.ids import settings_fingerprint
from pipeline.common.provenance import provenance as versions
from pipeline.common.registry import LEARNT, PROVENANCE
from pipeline.common.storage import Folder, absolute
from pipeline.drafters.capture_graph import RequestSource, numbered_window
from pipeline.drafters.capture_run import capture_numbered, numbered_shards
from pipeline.drafters.config import DistillRunConfig, capture_settings, refuse_too_many_workers, run_name
from pipeline.drafters.report import drafter_card
from pipeline.drafters.state_sources import HiddenStateSource, online_hidden_states, stored_hidden_states
from pipeline.drafters.training import drafter_geometry, greedy_tau
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.distill.online import OnlineWindow
from sparrow_core.distill.trainer import Hooks, StateDict, StepMetrics, Trainer, Worker
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.errors import ConfigError, SparrowError
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

CHECKPOINT_FILE = "state.pt"
TAU = "tau"  # the metric of a checkpoint by which the best one is chosen


@dataclass(frozen=True)
class Distilled:
    """A drafter's folder, which may not be there yet, how many captions it learnt from, and whether this run made it;
    if not, how many captions there are that it did not learn from, too few to begin."""

    folder: Path
    num_captions: int
    is_new: bool
    num_waiting: int = 0


def distill(
    config: DistillRunConfig,
    requests: RequestSource,
    windows: dict[str, Any],
    output: Path,
    online: Sequence[OnlineWindow] | None = None,
    least_new: int = 1,
    validation: Sequence[Callable[[], Request]] = (),
    refuse_target: Callable[[str], None] = lambda fingerprint: None,
    is_concluded: Callable[[Path], bool] = lambda folder: True,
) -> Distilled:
    """All stages, each continued where an earlier run of the same config stopped.

    No training begins before there are `least_new` captions that the drafter of the same settings, if there is one, did
    not learn from, nor while that one's folder is not settled: not yet measured, perhaps. On the windows of
    `validation`, if there are any, the best checkpoint is chosen.
    `online` are the windows of a run with `config.online` (None: those of `requests`).
    `windows` are the settings of `requests`, as plain JSON values: they tell captures apart. Before anything is
    trained, states of another target raise CheckpointError, and `refuse_target` is asked about the target's
    fingerprint.
    """
    output = output.absolute()
    info = _target_info(config)
    refuse_target(info.fingerprint)
    if config.online:
        origin = f"online-{capture_settings(config, windows)}"
    elif config.states:
        origin = absolute(config.states)
    else:
        origin = str(states_folder(config, windows, output))
        capture_numbered(config, requests, origin, capture_settings(config, windows))
    pending = _Pending(output / "training" / "pending.json")
    where = origin.removeprefix(f"{output}/")  # so that an output folder may be moved
    num_windows = None if config.states or online is not None else config.num_windows
    recipe = settings_fingerprint(
        {"run": run_name(config, ""), "target": info.fingerprint, "states": where, "num_windows": num_windows}
    )
    if config.online and online is None:
        online = [
            OnlineWindow(numbered_window(number), number, partial(requests, number))
            for number in range(config.num_windows)
        ]

    def states(names: Sequence[str] | None) -> HiddenStateSource:
        if online is not None:
            return online_hidden_states(config, online, origin, info, names)
        return stored_hidden_states(config, origin, info, names)

    mine = numbered_shards(num_windows) if num_windows and not config.online else None
    source, begun = states(mine), pending.names(recipe)
    if not begun or not set(begun) <= source.num_captions.keys():
        begun = None  # nothing was under way, or some of what it learnt from is gone
    if begun and len(begun) < len(source.num_captions):
        source = states(begun)
    geometry = drafter_geometry(config, info, source.bridge_layer)
    name, folder = run_name(config, source.digest), output / "drafter"
    learnt = _learnt(folder, recipe)
    num_new = sum(count for window, count in source.num_captions.items() if window not in learnt)
    if begun is None and (num_new < least_new or (learnt and not is_concluded(folder))):
        return Distilled(folder, sum(learnt.values()), is_new=False, num_waiting=num_new)
    pending.begin(recipe, list(source.num_captions))
    drafter = train_drafter(config, geometry, source, output / "training", name, validation)
    new = output / ".drafter-new"
    num_captions = sum(source.num_captions.values())
    save_drafter(new, drafter, drafter_card(config, num_captions, ()))
    made_from = {
        "run": name,
        "recipe": recipe,
        "states": {"origin": origin, "digest": source.digest, "captions": num_captions},
    }
    (new / PROVENANCE).write_text(json.dumps(asdict(config) | made_from | {"versions": versions()}, indent=1) + "\n")
    (new / LEARNT).write_text(json.dumps(dict(source.num_captions)) + "\n")  # by window
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
    pending.end()
    return Distilled(folder, num_captions, is_new=True)


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
    """The windows that a training under way learns from: others come meanwhile, and an interrupted run goes on with
    what it began with."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def names(self, recipe: str) -> list[str] | None:
        """Those of an unfinished run of this recipe."""
        if not self._file.exists():
            return None
        content = json.loads(self._file.read_text())
        return list(content["names"]) if content["recipe"] == recipe else None

    def begin(self, recipe: str, names: Sequence[str]) -> None:
        content = json.dumps({"recipe": recipe, "names": list(names)}) + "\n"
        Folder(str(self._file.parent)).write(self._file.name, content.encode())

    def end(self) -> None:
        self._file.unlink(missing_ok=True)


def _learnt(drafter: Path, recipe: str) -> dict[str, int]:
    """How many captions of which windows the drafter that is there learnt from; of another recipe's, none."""
    provenance, windows = drafter / PROVENANCE, drafter / LEARNT
    if not windows.exists() or json.loads(provenance.read_text())["recipe"] != recipe:
        return {}
    return dict(json.loads(windows.read_text()))


def states_folder(config: DistillRunConfig, windows: dict[str, Any], output: Path) -> Path:
    """Where the windows of `requests` are captured: one folder for each target and each way of capturing."""
    return output / f"states-{checkpoint_identity(config.target)}-{capture_settings(config, windows)}"


def train_drafter(
    config: DistillRunConfig,
    geometry: DrafterConfig,
    source: HiddenStateSource,
    output: Path,
    name: str,
    validation: Sequence[Callable[[], Request]] = (),
) -> SparrowDrafterModel:
    """Train on captions, or continue where a run of the same name stopped.

    Checkpoints live under `output`, in a folder of that name; running it again after it has finished trains nothing and
    gives the same drafter. Raises ConfigError where the cluster has no room for the workers.
    """
    refuse_too_many_workers(config.workers, ray.cluster_resources())
    # Workers count as started once they have imported torch. On a busy machine that takes longer than Ray's own limit,
    # after which they would all start again from nothing.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
    # Else what workers print comes twice: as they print it, and through Ray's logger.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "run": config,
            "geometry": geometry,
            "source": source,
            "folder": str(output / name),
            "validates": bool(validation),
        },
        validation_config=ValidationConfig(  # type: ignore[call-arg]  # of the second version of Ray Train
            partial(_validate, run=config, geometry=geometry, windows=validation),
            ray_remote_kwargs={"num_cpus": config.workers.cpus, "num_gpus": config.workers.gpus},
        ),
        scaling_config=ScalingConfig(
            num_workers=config.workers.train_range,  # type: ignore[arg-type]  # named more narrowly than it is
            use_gpu=config.workers.gpus > 0,
            resources_per_worker={"CPU": config.workers.cpus, **_gpu_grant(config)},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(output.absolute()),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=TAU if validation else None, checkpoint_score_order="max"
            ),
            failure_config=FailureConfig(max_failures=config.workers.most_failures),
        ),
    )
    try:
        result = trainer.fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, SparrowError):
                raise failure from error
        raise
    checkpoint = result.checkpoint
    if validation:
        measured = [(metrics[TAU], kept) for kept, metrics in result.best_checkpoints or [] if TAU in metrics]
        if not measured:
            raise ConfigError(
                f"no checkpoint of {name} could be validated; see Ray's logs, or set validation.windows=0"
            )
        checkpoint = max(measured, key=itemgetter(0))[1]
    assert checkpoint is not None, "a finished run has a checkpoint of its last step"
    drafter = SparrowDrafterModel(geometry)
    drafter.load_state_dict(_load(checkpoint)["drafter"])
    return drafter


def train_worker(settings: dict[str, Any]) -> None:
    """What each training worker runs."""
    run: DistillRunConfig = settings["run"]
    torch.set_num_threads(run.workers.threads)
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())  # type: ignore[arg-type]
    source: HiddenStateSource = settings["source"]
    with source.open(worker.device) as (windows, tables):
        torch.manual_seed(run.train.seed)
        unrolled = UnrolledDrafter(SparrowDrafterModel(settings["geometry"]), tables, run.train)
        model = prepare_model(unrolled, parallel_strategy_kwargs={"forward_sync_buffers": False})
        hooks = _Reporting(worker, Path(settings["folder"]), settings["validates"])
        trainer = Trainer(model, windows, run.train, worker, Hooks(hooks.on_step, hooks.on_checkpoint))
        checkpoint = ray.train.get_checkpoint()
        if checkpoint:
            trainer.load_state_dict(_load(checkpoint))
        trainer.run()


def _validate(
    checkpoint: Checkpoint,
    *,
    run: DistillRunConfig,
    geometry: DrafterConfig,
    windows: Sequence[Callable[[], Request]],
) -> dict[str, Any]:
    """What Ray Train runs beside the workers after each checkpoint."""
    torch.set_num_threads(run.workers.threads)
    target = load_target(run.target, device=run.device, dtype=run.dtype)
    drafter = SparrowDrafterModel(geometry)
    drafter.load_state_dict(_load(checkpoint)["drafter"])
    return {TAU: greedy_tau(drafter, target, windows, run.validation.draft)}


class _Reporting:
    """Hooks that hand checkpoints to Ray Train and tell of every step. All workers report, since that is a barrier, and
    each keeps a journal of its steps beside the checkpoints; the first one prints, too, writes for TensorBoard (in
    `tensorboard`) and sets Ray's own metrics."""

    def __init__(self, worker: Worker, folder: Path, validates: bool) -> None:
        self._validates = validates
        self._metrics: dict[str, Any] = {}
        self._writer = SummaryWriter(str(folder / "tensorboard")) if worker.rank == 0 else None
        journal = folder / f"steps-{worker.rank}-of-{worker.world_size}.jsonl"
        self._journal = journal.open("a", buffering=1)
        self._loss = Gauge("sparrow_distill_loss", "Nats per learnt slot, of this worker's part of a step.")
        self._step = Gauge("sparrow_distill_step", "Steps made.")

    def on_step(self, metrics: StepMetrics) -> None:
        self._metrics = asdict(metrics)
        self._journal.write(json.dumps(self._metrics | {"pid": os.getpid()}) + "\n")
        if self._writer is None:
            return
        self._loss.set(metrics.loss)
        self._step.set(metrics.step)
        for name in ("loss", "learning_rate", "gradient_norm"):
            self._writer.add_scalar(name, getattr(metrics, name), metrics.step)
        for recursion, share in enumerate(metrics.agreement):
            self._writer.add_scalar(f"agreement/pass_{recursion}", share, metrics.step)
        if metrics.step % 20 == 0:
            agreement = " ".join(f"{share:.3f}" for share in metrics.agreement)
            print(f"step {metrics.step}: loss {metrics.loss:.4f}, agreement by pass {agreement}", flush=True)

    def on_checkpoint(self, step: int, state: StateDict) -> None:
        checkpoint = None
        if self._writer is not None:
            self._writer.flush()
            folder = tempfile.mkdtemp(prefix="sparrow-checkpoint-")  # which Ray removes once it has uploaded it
            torch.save(state, Path(folder) / CHECKPOINT_FILE)
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report(
            self._metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=f"step-{step:06d}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            validation=self._validates and checkpoint is not None,
        )


def _gpu_grant(config: DistillRunConfig) -> dict[str, float]:
    return {"GPU": config.workers.gpus} if config.workers.gpus else {}


def _load(checkpoint: Checkpoint) -> StateDict:
    with checkpoint.as_directory() as folder:
        state: StateDict = torch.load(Path(folder) / CHECKPOINT_FILE, map_location="cpu")
    return state
