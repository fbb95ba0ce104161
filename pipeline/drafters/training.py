"""What every way of training a drafter shares, on many workers or in one task: its geometry, and tau on windows."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.drafters.config import DistillRunConfig
from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.target import TargetInfo, TargetModel
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.measure.acceptance import measure_window, summarise
from sparrow_core.types import Request


def drafter_geometry(config: DistillRunConfig, info: TargetInfo, bridge_layer: int) -> DrafterConfig:
    """The drafter that a config asks for, learning from states of this bridge layer."""
    return replace(
        DrafterConfig.for_target(info, blind=config.blind, sees=config.sees),
        bridge_layer=bridge_layer,
        has_bridge_norm=config.shows_bridge,
    )


def greedy_tau(
    drafter: SparrowDrafterModel, target: TargetModel, windows: Sequence[Callable[[], Request]], shape: DraftConfig
) -> float:
    """Tau by real greedy decoding, windows pooled. It lays the drafter out for decoding: train it no further."""
    mode = DecodeMode(SparrowDrafter(drafter, target), shape, Sampling())
    with Engine(target, None) as engine:
        return summarise("", "", "", [measure_window(engine, make(), [mode])[0] for make in windows]).tau
