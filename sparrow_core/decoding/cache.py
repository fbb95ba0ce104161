"""KV cache: keys and values of all sequences in one preallocated arena; each sequence has a room in it and a length.

Slots of one room, for a sequence of `length` committed and `pending` undecided rows:

    [0 ........ length)   committed: never moved, never rewritten
    [length ... length + pending)   rows of passes that are neither committed nor dropped yet
    [length + pending ... capacity)   free

A room is contiguous, so that matrix products read keys and values in place. Knows nothing of tokens, positions or
acceptance.

Shape letters: G KV heads, K 2: keys and values, L layers, R rows of a pass, S slots of a sequence, d head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from typing import NamedTuple

import torch

from sparrow_core.errors import ConfigError


class KVCache:
    """One sequence's room: a view [L, 2, G, S, d] of an arena. A rollback sets a number; a commit gathers a few rows.

    `release` gives the room back to its arena; it must be called once.
    """

    def __init__(self, data_LKGSd: torch.Tensor, release: Callable[[], None] = lambda: None) -> None:
        self.data_LKGSd = data_LKGSd
        self.release = release
        self.length = 0
        self.pending = 0
        self.prompt_length: int | None = None

    @property
    def capacity(self) -> int:
        """Slots of the room."""
        return self.data_LKGSd.shape[3]

    def seal_prompt(self) -> None:
        """Declare the committed slots to be the whole prompt: from now on sums over it use the same blocks."""
        self.prompt_length = self.length

    def forget_generated(self) -> None:
        """Go back to the end of the prompt."""
        assert self.prompt_length is not None, "the prompt must be sealed before generated slots can be dropped"
        self.length, self.pending = self.prompt_length, 0

    def extend(self, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Reserve the next `num_rows` slots as pending, for every layer of a pass to write.

        Returns two views: the new rows alone [L, 2, G, R, d], and everything up to their end [L, 2, G, S, d].
        Raises ConfigError if the room is exhausted.
        """
        first = self.length + self.pending
        end = first + num_rows
        if end > self.capacity:
            raise ConfigError(
                f"the sequence needs {end} cache slots but has {self.capacity}; "
                "raise engine.max_model_tokens or shorten the prompt"
            )
        self.pending += num_rows
        return self.data_LKGSd[:, :, :, first:end], self.data_LKGSd[:, :, :, :end]

    def commit(self, rows: list[int]) -> None:
        """Keep these pending rows, in this order, and drop the others. `rows` must be strictly increasing."""
        assert all(a < b for a, b in pairwise(rows)) and all(0 <= r < self.pending for r in rows)
        if rows != list(range(len(rows))):
            source_R = torch.tensor(rows, device=self.data_LKGSd.device) + self.length
            self.data_LKGSd[..., self.length : self.length + len(rows), :] = self.data_LKGSd.index_select(3, source_R)
        self.length += len(rows)
        self.pending = 0

    def rollback(self) -> None:
        """Drop all pending rows."""
        self.pending = 0

    def check(self) -> None:
        """Raise AssertionError if the lengths contradict each other or the room. Reads no tensor."""
        assert self.length >= 0 <= self.pending, f"a cache has {self.length} committed and {self.pending} pending slots"
        assert self.length + self.pending <= self.capacity, (
            f"a cache has {self.length} committed and {self.pending} pending slots, more than the {self.capacity} "
            "of its room"
        )
        assert self.prompt_length is None or 0 <= self.prompt_length <= self.length, (
            f"a cache has a prompt of {self.prompt_length} slots, but {self.length} committed ones"
        )


@dataclass(frozen=True)
class CacheShape:
    """What one slot of a model's KV cache holds, and on which device."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    device: torch.device
    dtype: torch.dtype

    def empty(self, capacity: int) -> torch.Tensor:
        """Uninitialised memory for `capacity` slots [L, 2, G, S, d]."""
        shape = (self.num_layers, 2, self.num_kv_heads, capacity, self.head_dim)
        return torch.empty(shape, device=self.device, dtype=self.dtype)

    def cache(self, capacity: int) -> KVCache:
        """A cache for one sequence with memory of its own, outside any arena."""
        return KVCache(self.empty(capacity))


class _Lease(NamedTuple):
    """A room in use: the slot of the arena at which it starts, and its cache."""

    start: int
    cache: KVCache


class KVArena:
    """All slots of a model, allocated once. Rooms are leased first fit and given back whole."""

    def __init__(self, shape: CacheShape, capacity: int) -> None:
        self._data_LKGSd = shape.empty(capacity)
        self._gaps: list[tuple[int, int]] = [(0, capacity)]  # (start, length), sorted by start, never adjacent
        self._leases: dict[int, _Lease] = {}
        self._numbers = count()

    @property
    def capacity(self) -> int:
        """Slots of the arena, leased and free."""
        return self._data_LKGSd.shape[3]

    @property
    def gaps(self) -> list[int]:
        """Lengths of the free stretches, in slots."""
        return [length for _, length in self._gaps]

    @property
    def num_leases(self) -> int:
        """Rooms that were leased and not given back yet."""
        return len(self._leases)

    def lease(self, num_slots: int) -> KVCache:
        """A room of `num_slots` in the first gap that is wide enough; `KVCache.release` gives it back, once.

        Raises ConfigError if no gap is wide enough; look at `gaps` first.
        """
        for index, (start, length) in enumerate(self._gaps):
            if length >= num_slots:
                self._gaps[index : index + 1] = [(start + num_slots, length - num_slots)] if length > num_slots else []
                number = next(self._numbers)
                view_LKGSd = self._data_LKGSd[:, :, :, start : start + num_slots]
                cache = KVCache(view_LKGSd, partial(self._give_back, number))
                self._leases[number] = _Lease(start, cache)
                return cache
        raise ConfigError(f"the arena has no room of {num_slots} slots; its widest is {max(self.gaps, default=0)}")

    def check(self) -> None:
        """Raise AssertionError unless rooms and gaps cover the arena exactly once and every leased cache is sound.

        Cheap enough for every idle moment: it compares a few integers for each room and reads no tensor.
        """
        assert self._gaps == sorted(self._gaps), f"the arena's gaps are out of order: {self._gaps}"
        rooms = [(lease.start, lease.cache.capacity, False) for lease in self._leases.values()]
        covered, after_gap = 0, False
        for start, length, is_gap in sorted([*rooms, *((start, length, True) for start, length in self._gaps)]):
            assert start >= covered, f"arena slots [{start}, {covered}) belong to two rooms or gaps"
            assert start <= covered, f"arena slots [{covered}, {start}) are neither leased nor free"
            assert not (after_gap and is_gap), f"two gaps of the arena meet at slot {start} and were not merged"
            covered, after_gap = start + length, is_gap
        assert covered == self.capacity, f"rooms and gaps end at slot {covered} of an arena of {self.capacity}"
        for lease in self._leases.values():
            lease.cache.check()

    def _give_back(self, number: int) -> None:
        lease = self._leases.pop(number, None)
        assert lease is not None, "a room of the arena was given back twice"
        merged: list[tuple[int, int]] = []
        for gap in sorted([*self._gaps, (lease.start, lease.cache.capacity)]):
            if merged and merged[-1][0] + merged[-1][1] == gap[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + gap[1])
            else:
                merged.append(gap)
        self._gaps = merged
