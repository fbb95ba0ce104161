"""Who joins and whose prompt is read next: all scheduling, as pure functions of what waits and what runs.

One step of the engine admits what fits, reads prompts for a slice of time, then runs one round of every sequence that
decodes. However long a prompt is, it costs the others one slice a round.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prefilling:
    """A prompt under way: the step at which some of it was last read, and how many tokens are left."""

    last_served: int
    tokens_left: int


def can_join(need: int, gaps: Sequence[int], num_active: int, max_sequences: int) -> bool:
    """Whether the first of the waiting requests, which needs so many slots, fits into one of the arena's gaps now.

    Only the first is ever asked about: a large request is not overtaken by small ones, or it might wait for ever.
    """
    return num_active < max_sequences and any(gap >= need for gap in gaps)


def next_to_prefill(reading: Sequence[Prefilling]) -> int:
    """Whose prompt is read next: the one that has waited longest, then the one with the least left."""
    return min(range(len(reading)), key=lambda index: (reading[index].last_served, reading[index].tokens_left))
