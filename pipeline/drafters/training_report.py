"""What a training worker reports: a journal of its steps, TensorBoard, Ray's metrics, and checkpoints to Ray Train."""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.util.metrics import Gauge
from torch.utils.tensorboard import SummaryWriter

from sparrow_core.distill.trainer import StateDict, StepMetrics, Worker

CHECKPOINT_FILE = "state.pt"
_STEPS_BETWEEN_LINES = 20


class TrainingReport:
    """Hooks of a trainer on one worker.

    Every worker reports every checkpoint to Ray Train, because `ray.train.report` is a barrier, and writes a journal
    of its steps to `folder`. The first worker also prints progress, writes TensorBoard files and sets Ray's metrics.
    """

    def __init__(self, worker: Worker, folder: Path, validates: bool) -> None:
        self._validates = validates
        self._metrics: dict[str, Any] = {}
        self._writer = SummaryWriter(str(folder / "tensorboard")) if worker.rank == 0 else None
        journal = folder / f"steps-{worker.rank}-of-{worker.world_size}.jsonl"
        self._journal = journal.open("a", buffering=1)
        self._loss = Gauge("sparrow_distill_loss", "Loss in nats per trained position, this worker's part of a step.")
        self._step = Gauge("sparrow_distill_step", "Training steps done.")

    def on_step(self, metrics: StepMetrics) -> None:
        """Record one step."""
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
        if metrics.step % _STEPS_BETWEEN_LINES == 0:
            agreement = " ".join(f"{share:.3f}" for share in metrics.agreement)
            print(f"step {metrics.step}: loss {metrics.loss:.4f}, agreement by pass {agreement}", flush=True)

    def on_checkpoint(self, step: int, state: StateDict) -> None:
        """Report the trainer's state to Ray Train; the first worker uploads it."""
        checkpoint = None
        if self._writer is not None:
            self._writer.flush()
            folder = tempfile.mkdtemp(prefix="sparrow-checkpoint-")  # Ray removes it after the upload
            torch.save(state, Path(folder) / CHECKPOINT_FILE)
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report(
            self._metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=f"step-{step:06d}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            validation=self._validates and checkpoint is not None,
        )


def load_state(checkpoint: Checkpoint) -> StateDict:
    """The trainer's state in a checkpoint."""
    with checkpoint.as_directory() as folder:
        state: StateDict = torch.load(Path(folder) / CHECKPOINT_FILE, map_location="cpu")
    return state
