"""The training loop: batches, loss, optimiser, schedule, checkpoints as plain dictionaries. Knows no Ray and no files.

All random choices follow from (seed, step), so weights, optimiser moments and the step number are the whole state of a
run: a resumed run is bit-equal to one that was never interrupted.
Shape letters: Z training passes: the first one and its recursions.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from sparrow_core.config import DistillConfig
from sparrow_core.distill.batch import TrainingBatch, num_learnt
from sparrow_core.distill.hidden_states import TrainingExample
from sparrow_core.distill.sampler import ExampleSampler, noise_seeds, shows_bridge
from sparrow_core.distill.unroll import UnrolledDrafter, UnrollSums
from sparrow_core.errors import TrainingDivergedError

StateDict = dict[str, Any]


class ExampleSource(Protocol):
    """Training examples by index, read (`store.HiddenStateStore`) or captured (`online.OnlineExamples`) on demand. A
    worker asks for all of its examples of a step at once."""

    def __len__(self) -> int: ...

    def examples(self, indices: Sequence[int]) -> list[TrainingExample]: ...


@dataclass(frozen=True)
class Worker:
    """This process's rank among the data-parallel workers, and the device that it trains on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class StepMetrics:
    """One step on this worker. `windows` are the indices of all examples of the global batch. `loss` is this worker's
    summed loss in nats, divided by the learnt slots of the global batch and multiplied by the number of workers.
    `agreement[r]` is the share of pass r's learnt slots at which the drafter's first choice is the target's."""

    step: int
    windows: tuple[int, ...]
    loss: float
    learning_rate: float
    gradient_norm: float
    agreement: tuple[float, ...]


@dataclass(frozen=True)
class Hooks:
    """Called after each step; and after every `checkpoint_every` steps and the last one, with the whole state."""

    on_step: Callable[[StepMetrics], None] = lambda metrics: None
    on_checkpoint: Callable[[int, StateDict], None] = lambda step, state: None


def learning_rate(config: DistillConfig, step: int) -> float:
    """Linear warm-up to `learning_rate`, then the schedule down to `final_rate_share` of it at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    floor = config.final_rate_share
    left = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.learning_rate * (floor + (1 - floor) * left)


class Trainer:
    """Trains an `UnrolledDrafter`, bare or wrapped in DistributedDataParallel.

    Each of several workers takes every `world_size`-th example of the global batch. It divides its summed loss by the
    learnt slots of the global batch and multiplies it by `world_size`, so that the averaged gradients are those of one
    worker with the whole batch, up to rounding. Raises TrainingDivergedError at the first loss that is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        source: ExampleSource,
        config: DistillConfig,
        worker: Worker | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self._worker = worker or Worker()
        config.refuse_uneven(self._worker.world_size)
        self.model = model
        unrolled = getattr(model, "module", model)
        assert isinstance(unrolled, UnrolledDrafter)
        self._unrolled = unrolled
        self.step = 0
        self._source = source
        self._config = config
        self._hooks = hooks or Hooks()
        self._sampler = ExampleSampler(len(source), config.batch_size, config.seed)
        self._optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )

    def run(self) -> None:
        """Train from the current step to the last."""
        while self.step < self._config.steps:
            metrics = self._train_step()
            self.step += 1
            self._hooks.on_step(metrics)
            if self.step % self._config.checkpoint_every == 0 or self.step == self._config.steps:
                self._hooks.on_checkpoint(self.step, self.state_dict())

    def state_dict(self) -> StateDict:
        drafter = self._unrolled.drafter
        return {"step": self.step, "drafter": drafter.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: StateDict) -> None:
        self._unrolled.drafter.load_state_dict(state["drafter"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _train_step(self) -> StepMetrics:
        config, worker = self._config, self._worker
        indices = self._sampler.batch(self.step)
        rate = learning_rate(config, self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        mine = range(worker.rank, config.batch_size, worker.world_size)
        examples = self._source.examples([indices[n] for n in mine])
        num_mine = sum(num_learnt(example.is_caption_E, config.recursions) for example in examples)
        num_learnt_slots = max(1, self._over_workers(num_mine))
        size = len(mine) // config.accumulate
        pieces = [slice(first, first + size) for first in range(0, len(mine), size)]
        loss = 0.0
        agreeing_Z = learnt_Z = torch.zeros(config.recursions + 1, dtype=torch.int64, device=worker.device)
        shown = shows_bridge(config.seed, self.step, config.batch_size, config.bridge_share)
        seeds = noise_seeds(config.seed, self.step, config.batch_size)
        for piece in pieces:
            batch = self._unrolled.collate(
                examples[piece], [shown[n] for n in mine[piece]], [seeds[n] for n in mine[piece]]
            )
            with nullcontext() if piece is pieces[-1] else self._without_sync():
                sums = self._sums(batch)
                scaled = sums.loss * (worker.world_size / num_learnt_slots)
                scaled.backward()
            loss += scaled.item()
            agreeing_Z, learnt_Z = agreeing_Z + sums.num_agreeing_Z, learnt_Z + sums.num_learnt_Z
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss of step {self.step} is {loss}: lower train.learning_rate={config.learning_rate:g}, or raise "
                f"train.warmup_steps={config.warmup_steps}"
            )
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self._optimizer.step()
        return StepMetrics(
            step=self.step,
            windows=tuple(indices),
            loss=loss,
            learning_rate=rate,
            gradient_norm=float(norm),
            agreement=tuple((agreeing_Z / learnt_Z.clamp(min=1)).tolist()),
        )

    def _sums(self, batch: TrainingBatch) -> UnrollSums:
        """All passes over a batch, in the configured precision."""
        device = self._worker.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.precision == "bfloat16"):
            sums: UnrollSums = self.model(batch.to(device))
        return sums

    def _over_workers(self, count: int) -> int:
        """The sum over all workers."""
        if self._worker.world_size == 1:
            return count
        total = torch.tensor(count, device=self._worker.device)
        torch.distributed.all_reduce(total)
        return int(total)

    def _without_sync(self) -> AbstractContextManager[None]:
        """A context in which gradients are not yet averaged over workers."""
        no_sync = getattr(self.model, "no_sync", nullcontext)
        return no_sync()  # type: ignore[no-any-return]
