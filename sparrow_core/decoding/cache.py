"""Preallocated keys and values: one arena for all sequences, in which each owns a room and a length.

Slots of one room, for a sequence of `length` committed tokens while `pending` further rows are under way:

    [0 ........ length)   committed: never moved, never rewritten
    [length ... length + pending)   rows of passes not yet decided on
    [length + pending ... capacity)   free

A room is contiguous, so that products read keys and values where they lie. Knows nothing of tokens, positions or
acceptance. Shape letters: L layers, G KV heads, S slots, R new rows, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from sparrow_core.errors import ConfigError


class KVCache:
    """One sequence's room, a view [L, 2, G, S, D] of an arena. Rollback is a number, commit a gather of a few rows."""

    def __init__(self, data_LKGSD: torch.Tensor, release: Callable[[], None] = lambda: None) -> None:
        self.data_LKGSD = data_LKGSD
        self.release = release
        self.length = 0
        self.pending = 0
        self.prompt_length: int | None = None

    @property
    def capacity(self) -> int:
        return self.data_LKGSD.shape[3]

    def seal_prompt(self) -> None:
        """Say that what is committed is the whole prompt: sums over it are taken in the same blocks from now on."""
        self.prompt_length = self.length

    def forget_generated(self) -> None:
        """Go back to the end of the prompt."""
        assert self.prompt_length is not None
        self.length, self.pending = self.prompt_length, 0

    def extend(self, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for `num_rows` new rows of a pass behind what is pending, for every layer to write.

        Returns two views: of the new rows alone [L, 2, G, R, D], and of everything up to their end [L, 2, G, S, D].
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
        return self.data_LKGSD[:, :, :, first:end], self.data_LKGSD[:, :, :, :end]

    def commit(self, rows: list[int]) -> None:
        """Keep these pending rows, in this order, and drop the others. `rows` must be strictly increasing."""
        assert all(a < b for a, b in pairwise(rows)) and all(0 <= r < self.pending for r in rows)
        if rows != list(range(len(rows))):
            source_S = torch.tensor(rows, device=self.data_LKGSD.device) + self.length
            self.data_LKGSD[..., self.length : self.length + len(rows), :] = self.data_LKGSD.index_select(3, source_S)
        self.length += len(rows)
        self.pending = 0

    def rollback(self) -> None:
        """Drop all pending rows."""
        self.pending = 0


@dataclass(frozen=True)
class CacheShape:
    """What one slot holds, and where: the geometry of a model's keys and values."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    device: torch.device
    dtype: torch.dtype

    def empty(self, capacity: int) -> torch.Tensor:
        """Room for `capacity` slots, [L, 2, G, S, D], not yet written."""
        shape = (self.num_layers, 2, self.num_kv_heads, capacity, self.head_dim)
        return torch.empty(shape, device=self.device, dtype=self.dtype)

    def cache(self, capacity: int) -> KVCache:
        """A cache of its own for one sequence, outside any arena."""
        return KVCache(self.empty(capacity))


class KVArena:
    """All slots of a model, allocated once; rooms are leased first fit and given back whole."""

    def __init__(self, shape: CacheShape, capacity: int) -> None:
        self._data_LKGSD = shape.empty(capacity)
        self._free: list[tuple[int, int]] = [(0, capacity)]  # (start, length), by start, never adjacent

    @property
    def capacity(self) -> int:
        return self._data_LKGSD.shape[3]

    @property
    def gaps(self) -> list[int]:
        """Lengths of the free stretches, in slots."""
        return [length for _, length in self._free]

    def lease(self, num_slots: int) -> KVCache:
        """A room of `num_slots` in the first gap that is wide enough; `KVCache.release` gives it back, once.

        Raises ConfigError where no gap is: ask `gaps` first.
        """
        for index, (start, length) in enumerate(self._free):
            if length >= num_slots:
                self._free[index : index + 1] = [(start + num_slots, length - num_slots)] if length > num_slots else []
                view = self._data_LKGSD[:, :, :, start : start + num_slots]
                return KVCache(view, partial(self._give_back, start, num_slots))
        raise ConfigError(f"the arena has no room of {num_slots} slots; its widest is {max(self.gaps, default=0)}")

    def _give_back(self, start: int, length: int) -> None:
        merged: list[tuple[int, int]] = []
        for gap in sorted([*self._free, (start, length)]):
            if merged and merged[-1][0] + merged[-1][1] == gap[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + gap[1])
            else:
                merged.append(gap)
        self._free = merged
