"""A training by two plain workers over gloo, without Ray: the uninterrupted twin of a job that was killed.

A module of its own, so that the workers' processes import no more than they need.
"""

from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from sparrow_core.config import DistillConfig
from sparrow_core.distill.store import HiddenStateStore
from sparrow_core.distill.trainer import Hooks, StepMetrics, Trainer, Worker
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel


def train_worker(rank: int, states: str, geometry: DrafterConfig, config: DistillConfig, folder: str) -> None:
    """Train as worker `rank` of two; writes weights and steps to `unkilled-<rank>.pt` in `folder`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    store = HiddenStateStore(Path(states))
    torch.manual_seed(config.seed)
    model = UnrolledDrafter(SparrowDrafterModel(geometry), store.tables(), config)
    steps: list[StepMetrics] = []
    trainer = Trainer(DistributedDataParallel(model), store, config, Worker(rank, 2), Hooks(steps.append))
    trainer.run()
    torch.save({"drafter": trainer.state_dict()["drafter"], "steps": steps}, f"{folder}/unkilled-{rank}.pt")
    torch.distributed.destroy_process_group()
