"""Building blocks of every drafter training: the drafter's geometry, its trainer, and tau measured by real decoding.

`ray_training` uses them on several workers with checkpoints, `comparison.trials` in a single Ray task.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from pipeline.drafters.config import DistillRunConfig
from pipeline.drafters.hidden_state_sources import OpenedSource
from sparrow_core.config import DistillConfig, DraftConfig, Sampling
from sparrow_core.decoding.target import TargetInfo, TargetModel
from sparrow_core.distill.trainer import Hooks, StateDict, Trainer, Worker
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.measure.acceptance import measure_window, summarise
from sparrow_core.types import Request


def drafter_geometry(config: DistillRunConfig, info: TargetInfo, bridge_layer: int) -> DrafterConfig:
    """Geometry of the configured drafter for a target whose hidden states were captured at `bridge_layer`."""
    return replace(
        DrafterConfig.for_target(info, blind=config.blind, sees=config.sees),
        bridge_layer=bridge_layer,
        has_bridge_norm=config.shows_bridge,
    )


def new_trainer(
    config: DistillConfig,
    geometry: DrafterConfig,
    opened: OpenedSource,
    worker: Worker,
    hooks: Hooks,
    prepare: Callable[[nn.Module], nn.Module] | None = None,
) -> Trainer:
    """A trainer of a new drafter, whose initial weights follow from the config's seed.

    `prepare` moves the model to the worker's device and wraps it for distributed training; None only moves it.
    """
    torch.manual_seed(config.seed)
    unrolled = UnrolledDrafter(SparrowDrafterModel(geometry), opened.tables, config)
    model = prepare(unrolled) if prepare else unrolled.to(worker.device)
    return Trainer(model, opened.examples, config, worker, hooks)


def trained_drafter(geometry: DrafterConfig, state: StateDict) -> SparrowDrafterModel:
    """The drafter in a trainer's state."""
    drafter = SparrowDrafterModel(geometry)
    drafter.load_state_dict(state["drafter"])
    return drafter


def greedy_tau(
    drafter: SparrowDrafterModel, target: TargetModel, windows: Sequence[Callable[[], Request]], shape: DraftConfig
) -> float:
    """Tau by real greedy decoding, pooled over windows. Converts the drafter for decoding, so do not train it again."""
    mode = DecodeMode(SparrowDrafter(drafter, target), shape, Sampling())
    with Engine(target, None) as engine:
        return summarise("", "", "", [measure_window(engine, make(), [mode])[0] for make in windows]).tau
