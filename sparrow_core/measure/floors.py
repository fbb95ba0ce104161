"""Lower bounds on the time of a pass: its bytes over the machine's read bandwidth, its FLOP over the peak rate.

Both rates are measured in the run that uses them, with torch's current number of threads.
"""

from dataclasses import dataclass

import torch

from sparrow_core.decoding.target import TargetInfo
from sparrow_core.engine.costs import wall_times

BUFFER_BYTES = 2**30
MATRIX_SIZE = 2048
REPEATS = 5


@dataclass(frozen=True)
class MachineRates:
    """`read_bytes_per_s` is measured by summing a buffer of 1 GiB, `flop_per_s` by multiplying two 2048 x 2048 matrices
    in the dtype of the run. The best of five each."""

    read_bytes_per_s: float
    flop_per_s: float


@dataclass(frozen=True)
class PassFloor:
    """Bytes that a pass must read and floating-point operations that it must do."""

    num_bytes: int
    num_flop: int

    def seconds(self, rates: MachineRates) -> float:
        return max(self.num_bytes / rates.read_bytes_per_s, self.num_flop / rates.flop_per_s)


def measure_rates(device: torch.device, dtype: torch.dtype) -> MachineRates:
    """Measure the rates of this machine; takes a few seconds and 1 GiB of memory."""
    source = torch.ones(BUFFER_BYTES // 4, device=device)
    left = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(dtype)
    return MachineRates(
        read_bytes_per_s=BUFFER_BYTES / min(wall_times(device, lambda: source.sum(), REPEATS)),
        flop_per_s=2 * MATRIX_SIZE**3 / min(wall_times(device, lambda: left @ left, REPEATS)),
    )


def pass_floor(info: TargetInfo, num_rows: int, context: int) -> PassFloor:
    """The floor of a pass over `num_rows` rows behind `context` slots, through the language model and its lm_head."""
    attention = info.hidden_size * (2 * info.num_heads + 2 * info.num_kv_heads) * info.head_dim
    mlp = 3 * info.hidden_size * info.intermediate_size
    weights = info.num_layers * (attention + mlp) + info.vocab_size * info.hidden_size
    kv = 2 * info.num_layers * info.num_kv_heads * info.head_dim * (context + num_rows)
    products = weights * num_rows + 2 * info.num_layers * info.num_heads * info.head_dim * context * num_rows
    return PassFloor((weights + kv) * info.dtype.itemsize, 2 * products)
