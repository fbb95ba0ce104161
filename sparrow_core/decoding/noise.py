"""Keyed noise: random numbers as a pure function of their key, equal on every device and independent of call order.

SplitMix64 (Steele, Lea, Flood 2014) as a counter-based hash over int64 tensors, whose products wrap around like
unsigned integers in C. A key is the request's seed, a stream (what the number is for), and counters.
"""

from enum import IntEnum

import torch

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


class Stream(IntEnum):
    """What a random number is for; no two uses share a number."""

    TOKEN = 1
    PROPOSAL = 2
    ACCEPTANCE = 3


def _logical_shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = x + _GOLDEN
    x = (x ^ _logical_shift(x, 30)) * _MIX_1
    x = (x ^ _logical_shift(x, 27)) * _MIX_2
    return x ^ _logical_shift(x, 31)


def uniform(seed: int, stream: Stream, *counters: torch.Tensor) -> torch.Tensor:
    """Float64 in (0, 1), one for each element of the broadcast int64 `counters` (non-negative)."""
    seed_64 = (seed + (1 << 63)) % (1 << 64) - (1 << 63)
    hashed = _mix(torch.tensor(seed_64, device=counters[0].device))
    for counter in (torch.tensor(int(stream), device=counters[0].device), *counters):
        hashed = _mix(hashed ^ (counter * _GOLDEN))
    return (_logical_shift(hashed, 11).double() + 0.5) * 2.0**-53


def gumbel(seed: int, stream: Stream, *counters: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise in float64; adding it to log-probabilities and taking the argmax samples from them."""
    return -torch.log(-torch.log(uniform(seed, stream, *counters)))
