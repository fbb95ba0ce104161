"""Preallocated keys and values of one sequence, for all layers, with rollback for free.

Slots of one layer, for a sequence of `length` committed tokens while `pending` further rows are under way:

    [0 ........ length)   committed: never moved, never rewritten
    [length ... length + pending)   rows of passes not yet decided on
    [length + pending ... capacity)   free

Knows nothing of tokens, positions or acceptance. Shape letters: L layers, G KV heads, S slots, R new rows, D head size.
"""

from itertools import pairwise

import torch

from sparrow_core.errors import ConfigError


class KVCache:
    """Keys and values as one tensor [L, 2, G, S, D]; allocated once, reused by `reset`.

    It has the one method that transformers' attention modules call on a cache (`update`), so the library's own layers
    write straight into it.
    """

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        capacity: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.data_LKGSD = torch.empty(num_layers, 2, num_kv_heads, capacity, head_dim, device=device, dtype=dtype)
        self.reset()

    @property
    def capacity(self) -> int:
        return self.data_LKGSD.shape[3]

    def reset(self) -> None:
        """Forget everything; the room stays allocated."""
        self.length = self.pending = self._first_new = 0
        self.prompt_length: int | None = None

    def seal_prompt(self) -> None:
        """Say that what is committed is the whole prompt: sums over it are taken in the same blocks from now on."""
        self.prompt_length = self.length

    def extend(self, num_rows: int) -> None:
        """Announce a pass over `num_rows` new rows, which all layers will write behind what is pending.

        Raises ConfigError if the room is exhausted.
        """
        needed = self.length + self.pending + num_rows
        if needed > self.capacity:
            raise ConfigError(
                f"the sequence needs {needed} cache slots but has {self.capacity}; "
                "raise engine.max_model_tokens or shorten the prompt"
            )
        self._first_new = self.length + self.pending
        self.pending += num_rows

    def update(self, keys_1GRD: torch.Tensor, values_1GRD: torch.Tensor, layer: int) -> tuple[torch.Tensor, ...]:
        """Write one layer's new rows; return views of all its keys and values so far, each [1, G, S, D].

        Rows beyond the announced ones are padding and are not written.
        """
        end = self.length + self.pending
        layer_KGSD = self.data_LKGSD[layer]
        layer_KGSD[0, :, self._first_new : end] = keys_1GRD[0, :, : end - self._first_new]
        layer_KGSD[1, :, self._first_new : end] = values_1GRD[0, :, : end - self._first_new]
        return layer_KGSD[0, None, :, :end], layer_KGSD[1, None, :, :end]

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
