"""Costs of a pass and of a draft on this machine in seconds. Measuring a drafter's takes a second or two.

Shape letters: A axes of a position, D hidden size, G KV heads, K 2: keys and values, L layers, R rows of a pass, S
slots of a sequence, T text tokens, d head size.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafter import DraftContext, Drafter, DraftJob, PromptContext
from sparrow_core.decoding.target import SequenceRows, TargetModel
from sparrow_core.engine.governor import CANDIDATES, NO_DRAFT, Costs

ROWS = (1, 4, 8, 16, 17, 32, 33, 64)
ROWS_OF_ONE = (1, 4, 8, 16, 32)
CONTEXT = 8192  # more than a CPU's cache holds
TEXT_TOKENS = 64
REPEATS = 3


@torch.inference_mode()
def measure_costs(target: TargetModel, drafter: Drafter[Any]) -> Costs:
    """Median seconds of passes after blank contexts and of drafts after a blank text."""
    pass_s = {rows: median_seconds(target, blank_pass(target, rows, context=0)) for rows in ROWS}
    long_s = {rows: median_seconds(target, blank_pass(target, rows, CONTEXT)) for rows in ROWS_OF_ONE}
    slot_s = {rows: max(0.0, long_s[rows] - pass_s[rows]) / CONTEXT for rows in ROWS_OF_ONE}
    return Costs(pass_s, slot_s, {shape: draft_seconds(target, drafter, shape) for shape in CANDIDATES})


def blank_pass(target: TargetModel, num_rows: int, context: int) -> Callable[[], None]:
    """A function that runs one pass, logits included, over a chain of `num_rows` after `context` slots of zeros."""
    info = target.info
    cache = info.cache_shape.cache(context + num_rows)
    cache.data_LKGSd.zero_()
    cache.length = context
    cache.seal_prompt()
    ids_R = torch.zeros(num_rows, dtype=torch.int64, device=info.device)
    positions_AR = torch.arange(context, context + num_rows, device=info.device).expand(info.position_axes, -1)

    def run() -> None:
        rows = (SequenceRows(cache, num_rows),)
        target.logits(target.forward(target.embed_tokens(ids_R), positions_AR, rows).hidden_RD)
        cache.rollback()

    return run


def draft_seconds(target: TargetModel, drafter: Drafter[Any], shape: DraftConfig) -> float:
    """Median wall seconds of one sequence's draft after a blank text."""
    if shape == NO_DRAFT:
        return 0.0
    info = target.info
    ids_T = torch.zeros(TEXT_TOKENS, dtype=torch.int64, device=info.device)
    hidden_TD = torch.zeros(TEXT_TOKENS, info.hidden_size, device=info.device, dtype=info.dtype)
    session = drafter.open(PromptContext(ids_T, hidden_TD), REPEATS + 1)
    job = DraftJob(session, DraftContext(0, 1, 0, Sampling()), shape)
    return median_seconds(target, lambda: drafter.propose([job]))


def median_seconds(target: TargetModel, run: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median wall seconds of a call on the target's device."""
    return median(wall_times(target.info.device, run, repeats))


def wall_times(device: torch.device, run: Callable[[], Any], repeats: int) -> list[float]:
    """Wall seconds of each of `repeats` calls, after one call that warms up and is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return times[1:]
