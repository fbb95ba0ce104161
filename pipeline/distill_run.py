"""From a target to a drafter folder: states captured, then Ray Train around the plain trainer.

Owns the order of stages, workers and checkpoints. It knows nothing of losses or passes, and windows come from outside.

    OUTPUT/states-<target>-<settings>/    captured windows
    OUTPUT/training/distill-<config>/     Ray Train's run: checkpoints
    OUTPUT/drafter/                       the drafter of the latest run
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model

from pipeline.capture_graph import RequestSource, capture_states
from pipeline.distill_config import DistillRunConfig, capture_settings, run_name
from pipeline.report.acceptance import drafter_card
from sparrow_core.distill.store import StateStore
from sparrow_core.distill.trainer import Hooks, StateDict, StepMetrics, Trainer, Worker
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.models.drafter import DrafterConfig, SparrowDrafterModel
from sparrow_core.models.drafter_checkpoint import save_drafter
from sparrow_core.models.loading import load_target

CHECKPOINT_FILE = "state.pt"


def distill(config: DistillRunConfig, requests: RequestSource, windows: dict[str, Any], output: Path) -> Path:
    """All stages, each continued where an earlier run of the same config stopped -> the drafter's folder.

    `windows` are the settings of `requests`, as plain JSON values: they tell captures apart.
    """
    output = output.absolute()
    states = capture_states(config, requests, output, capture_settings(config, windows))
    info = load_target(config.target, device=config.device, dtype=config.dtype).info
    geometry = replace(
        DrafterConfig.for_target(info, blind=config.blind),
        bridge_layer=StateStore(states, info.fingerprint).header.bridge_layer,
        has_bridge_norm=config.train.bridge_share > 0,
    )
    drafter = train_drafter(config, geometry, states, output / "training")
    folder, new = output / "drafter", output / ".drafter-new"
    save_drafter(new, drafter, drafter_card(config, ()))
    (new / "provenance.json").write_text(json.dumps(asdict(config) | {"states": states.name}, indent=1) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
    return folder


def train_drafter(config: DistillRunConfig, geometry: DrafterConfig, states: Path, output: Path) -> SparrowDrafterModel:
    """Train on the store at `states`, or continue where a run of the same config stopped.

    Checkpoints live under `output`, in a folder named by the config; running it again after it has finished trains
    nothing and gives the same drafter.
    """
    name = run_name(config, states.name)
    # Workers count as started once they have imported torch. On a busy machine that takes longer than Ray's own limit,
    # after which they would all start again from nothing.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
    # Else what workers print comes twice: as they print it, and through Ray's logger.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"run": config, "geometry": geometry, "states": str(states.absolute())},
        scaling_config=ScalingConfig(
            num_workers=config.workers.train,
            use_gpu=config.workers.gpus > 0,
            resources_per_worker={"CPU": config.workers.cpus, **_gpu_grant(config)},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(output.absolute()),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=2),
        ),
    )
    result = trainer.fit()
    assert result.checkpoint is not None, "a finished run has a checkpoint of its last step"
    drafter = SparrowDrafterModel(geometry)
    drafter.load_state_dict(_load(result.checkpoint)["drafter"])
    return drafter


def train_worker(settings: dict[str, Any]) -> None:
    """What each training worker runs."""
    run: DistillRunConfig = settings["run"]
    torch.set_num_threads(run.workers.threads)
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())  # type: ignore[arg-type]
    store = StateStore(Path(settings["states"]), settings["geometry"].target_fingerprint)
    torch.manual_seed(run.train.seed)
    unrolled = UnrolledDrafter(SparrowDrafterModel(settings["geometry"]), store.tables(), run.train)
    model = prepare_model(unrolled, parallel_strategy_kwargs={"forward_sync_buffers": False})
    hooks = _Reporting(worker.rank)
    trainer = Trainer(model, store, run.train, worker, Hooks(hooks.on_step, hooks.on_checkpoint))
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        trainer.load_state_dict(_load(checkpoint))
    trainer.run()


class _Reporting:
    """Hooks that print progress and hand checkpoints to Ray Train. All workers report, since reporting is a barrier."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._metrics: dict[str, Any] = {}

    def on_step(self, metrics: StepMetrics) -> None:
        self._metrics = asdict(metrics)
        if self._rank == 0 and metrics.step % 20 == 0:
            agreement = " ".join(f"{share:.3f}" for share in metrics.agreement)
            print(f"step {metrics.step}: loss {metrics.loss:.4f}, agreement by pass {agreement}", flush=True)

    def on_checkpoint(self, step: int, state: StateDict) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self._rank == 0:
                torch.save(state, Path(folder) / CHECKPOINT_FILE)
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report(self._metrics, checkpoint=checkpoint, checkpoint_dir_name=f"step-{step:06d}")


def _gpu_grant(config: DistillRunConfig) -> dict[str, float]:
    return {"GPU": config.workers.gpus} if config.workers.gpus else {}


def _load(checkpoint: Checkpoint) -> StateDict:
    with checkpoint.as_directory() as folder:
        state: StateDict = torch.load(Path(folder) / CHECKPOINT_FILE, map_location="cpu")
    return state
