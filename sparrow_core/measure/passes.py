"""What a verification pass costs by its rows and its context, beside one autoregressive step and beside its floor."""

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
    """One pass over `rows` rows behind `context` slots. `ar_steps` counts passes of one row over the same context."""

    context: int
    rows: int
    ms: float
    ar_steps: float
    floor_ms: float
    over_floor: float


@torch.inference_mode()
def measure_passes(target: TargetModel, contexts: Sequence[int], rates: MachineRates) -> list[PassRow]:
    """Medians for every number of rows and every context, blank caches; the numbers of rows take turns."""
    rows = []
    for context in contexts:
        passes = {n: blank_pass(target, n, context) for n in ROW_COUNTS}
        turns = [{n: median_seconds(target, run, repeats=1) for n, run in passes.items()} for _ in range(REPEATS)]
        seconds = {n: median(turn[n] for turn in turns) for n in ROW_COUNTS}
        for num_rows, taken in seconds.items():
            floor = pass_floor(target.info, num_rows, context).seconds(rates)
            figures = (1000 * taken, taken / seconds[1], 1000 * floor, taken / floor)
            rows.append(PassRow(context, num_rows, *figures))
    return rows
