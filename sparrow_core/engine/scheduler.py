"""Scheduling, where a request is admitted: which one joins and whose prompt is prefilled next, as pure functions.

One step of the engine admits the requests that fit, prefills prompts for a slice of time, then runs one round of every
sequence that decodes. However long a prompt is, it delays the others by one slice per round.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prefilling:
    """A prompt under way: the engine's step at which it was last prefilled, and its tokens not yet in the cache."""

    last_served: int
    tokens_left: int


def can_join(num_slots: int, gaps: Sequence[int], num_active: int, max_sequences: int) -> bool:
    """Whether the first waiting request, which needs `num_slots`, may run now: it must fit into one gap of the arena.

    Only the first request may join. If small ones could overtake a large one, it might wait for ever.
    """
    return num_active < max_sequences and any(gap >= num_slots for gap in gaps)


def next_to_prefill(prompts: Sequence[Prefilling]) -> int:
    """Index of the prompt to prefill next: the one that has waited longest; among those, the one with fewest tokens
    left."""
    return min(range(len(prompts)), key=lambda index: (prompts[index].last_served, prompts[index].tokens_left))
