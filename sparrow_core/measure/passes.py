"""Times verification passes by rows and context, relative to one autoregressive step and to the machine's floor."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.costs import blank_pass, median_seconds
from sparrow_core.measure.floors import MachineRates, pass_floor

ROW_COUNTS = (1, 4, 6, 8, 16, 30)
REPEATS = 9


@dataclass(frozen=True)
class PassRow:
    """One pass over `rows` rows behind `context` slots. `ar_steps` is its time in autoregressive steps, that is in
    passes of one row behind the same context; `over_floor` is its time over `floor_ms`."""

    context: int
    rows: int
    ms: float
    ar_steps: float
    floor_ms: float
    over_floor: float


@torch.inference_mode()
def measure_passes(target: TargetModel, contexts: Sequence[int], rates: MachineRates) -> list[PassRow]:
    """Time passes for every number of rows and every context, over blank caches; medians.

    The numbers of rows take turns, so that a drift of the machine's speed affects all alike.
    """
    table = []
    for context in contexts:
        passes = {n: blank_pass(target, n, context) for n in ROW_COUNTS}
        repeats = [{n: median_seconds(target, run, repeats=1) for n, run in passes.items()} for _ in range(REPEATS)]
        medians_s = {n: median(seconds[n] for seconds in repeats) for n in ROW_COUNTS}
        for num_rows, pass_s in medians_s.items():
            floor_s = pass_floor(target.info, num_rows, context).seconds(rates)
            figures = (1000 * pass_s, pass_s / medians_s[1], 1000 * floor_s, pass_s / floor_s)
            table.append(PassRow(context, num_rows, *figures))
    return table
