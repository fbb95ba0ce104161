"""Runs the trainer on Ray Train: workers, checkpoints, validation, and the best checkpoint as the drafter.

OUTPUT/<run>/    Ray Train's run: checkpoints, its index of them, the workers' journals
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig, ValidationConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.train.v2.api.exceptions import WorkerGroupError

from pipeline.drafters.config import DistillRunConfig, refuse_too_many_workers
from pipeline.drafters.hidden_state_sources import HiddenStateSource
from pipeline.drafters.training import greedy_tau, new_trainer, trained_drafter
from pipeline.drafters.training_report import TrainingReport, load_state
from sparrow_core.distill.trainer import Hooks, Worker
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.errors import ConfigError, SparrowError
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request

TAU = "tau"  # the metric by which the best checkpoint is chosen


@dataclass(frozen=True)
class TrainingRun:
    """A drafter to train: its settings, geometry, training examples, and the windows that choose its best checkpoint.

    Without `validation` windows the last checkpoint is taken. A run with the same `name` under `output` is continued.
    """

    config: DistillRunConfig
    geometry: DrafterConfig
    source: HiddenStateSource
    output: Path
    name: str
    validation: Sequence[Callable[[], Request]] = ()

    @property
    def folder(self) -> Path:
        """Where Ray Train keeps the run."""
        return self.output / self.name


def train_drafter(run: TrainingRun) -> SparrowDrafterModel:
    """Train a drafter, or continue an interrupted run. A finished run returns the same drafter again.

    Raises ConfigError if the workers do not fit into the cluster, and re-raises a worker's SparrowError.
    """
    refuse_too_many_workers(run.config.workers, ray.cluster_resources())
    # Ray counts a worker as started once it has imported torch. On a busy machine that takes longer than Ray's default
    # limit, after which it would restart all workers.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
    # Without this, each line that a worker prints appears twice: once directly, once through Ray's logger.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    try:
        result = _ray_trainer(run).fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, SparrowError):
                raise failure from error
        raise
    return trained_drafter(run.geometry, load_state(_best_checkpoint(run, result)))


def _ray_trainer(run: TrainingRun) -> TorchTrainer:
    workers = run.config.workers
    score = TAU if run.validation else None
    grant = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    return TorchTrainer(
        train_worker,
        train_loop_config={"run": run},
        validation_config=ValidationConfig(  # type: ignore[call-arg]  # a parameter of Ray Train v2
            partial(_validate, run=run),
            ray_remote_kwargs={"num_cpus": workers.cpus, "num_gpus": workers.gpus},
        ),
        scaling_config=ScalingConfig(
            num_workers=workers.train_range,  # type: ignore[arg-type]  # Ray's annotation lacks the tuple
            use_gpu=workers.gpus > 0,
            resources_per_worker=grant,
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(run.output.absolute()),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=score, checkpoint_score_order="max"
            ),
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )


def _best_checkpoint(run: TrainingRun, result: Result) -> Checkpoint:
    """The checkpoint with the highest tau, or the last one if the run has no validation windows.

    Raises ConfigError if no checkpoint could be validated.
    """
    if not run.validation:
        assert result.checkpoint is not None, "a finished run has a checkpoint of its last step"
        return result.checkpoint
    validated = [(metrics[TAU], kept) for kept, metrics in result.best_checkpoints or [] if TAU in metrics]
    if not validated:
        raise ConfigError(
            f"no checkpoint of {run.name} could be validated; see Ray's logs, or set validation.windows=0"
        )
    best: Checkpoint = max(validated, key=itemgetter(0))[1]
    return best


def train_worker(settings: dict[str, Any]) -> None:
    """The training loop of one Ray Train worker."""
    run: TrainingRun = settings["run"]
    torch.set_num_threads(run.config.workers.threads)
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())  # type: ignore[arg-type]
    with run.source.open(worker.device) as opened:
        report = TrainingReport(worker, run.folder, bool(run.validation))
        trainer = new_trainer(
            run.config.train,
            run.geometry,
            opened,
            worker,
            Hooks(report.on_step, report.on_checkpoint),
            partial(prepare_model, parallel_strategy_kwargs={"forward_sync_buffers": False}),
        )
        if checkpoint := ray.train.get_checkpoint():
            trainer.load_state_dict(load_state(checkpoint))
        trainer.run()


def _validate(checkpoint: Checkpoint, *, run: TrainingRun) -> dict[str, Any]:
    """Validate one checkpoint -> its tau. Ray Train runs this task beside the workers."""
    config = run.config
    torch.set_num_threads(config.workers.threads)
    target = load_target(config.target, device=config.device, dtype=config.dtype)
    drafter = trained_drafter(run.geometry, load_state(checkpoint))
    return {TAU: greedy_tau(drafter, target, run.validation, config.validation.draft)}
