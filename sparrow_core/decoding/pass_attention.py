"""Attention of one pass over rows of several sequences, each with its own KV cache: what a layer writes and reads.

Shape letters: G KV heads, H query heads, K 2: keys and values, L layers, P pending slots of a cache, R rows of a pass,
S slots of a sequence, d head size.
"""

from collections.abc import Sequence

import torch

from sparrow_core.decoding.attention import BatchInvariantAttention, attend, attend_causally, causal_mask
from sparrow_core.decoding.target import SequenceRows

# From this number of rows on, `attend_causally`, which does not store scores, costs less than `attend`.
MANY_ROWS = 128


class PassAttention:
    """The caches of a pass's sequences. The pass holds the rows of one sequence after the other, then padding."""

    def __init__(self, sequences: Sequence[SequenceRows], num_heads: int) -> None:
        self._parts = []
        first = 0
        for sequence in sequences:
            self._parts.append(_Part(sequence, first, num_heads))
            first += sequence.num_rows
        self._num_rows = first

    def attend(
        self, layer: int, queries_HRd: torch.Tensor, keys_GRd: torch.Tensor, values_GRd: torch.Tensor
    ) -> torch.Tensor:
        """Write one layer's keys and values, then attend: every row to its own sequence -> [H, R, d].

        `layer` counts from 0. The results of padding rows are arbitrary.
        """
        attended = [part.attend(layer, queries_HRd, keys_GRd, values_GRd) for part in self._parts]
        num_padding = queries_HRd.shape[1] - self._num_rows
        if num_padding:
            attended.append(queries_HRd[:, :num_padding])
        return torch.cat(attended, 1) if len(attended) > 1 else attended[0]


class _Part:
    """One sequence's rows of the pass."""

    def __init__(self, sequence: SequenceRows, first: int, num_heads: int) -> None:
        cache, num_rows, visible_RP = sequence.cache, sequence.num_rows, sequence.visible_RP
        new_LKGRd, so_far_LKGSd = cache.extend(num_rows)
        is_long = cache.prompt_length is None and visible_RP is None and num_rows >= MANY_ROWS
        if visible_RP is None and not is_long:
            visible_RP = causal_mask(num_rows, new_LKGRd.device)
        self._rows = slice(first, first + num_rows)
        self._new_KGRd, self._so_far_LKGSd = new_LKGRd.unbind(), so_far_LKGSd
        self._is_long, self._visible_RP = is_long, visible_RP
        self._sealed: BatchInvariantAttention | None = None
        if cache.prompt_length is not None:
            heads_per_group = num_heads // new_LKGRd.shape[2]
            self._sealed = BatchInvariantAttention(
                so_far_LKGSd, num_rows, visible_RP, heads_per_group, cache.prompt_length
            )

    def attend(
        self, layer: int, queries_HRd: torch.Tensor, keys_GRd: torch.Tensor, values_GRd: torch.Tensor
    ) -> torch.Tensor:
        new_keys_GRd, new_values_GRd = self._new_KGRd[layer]
        new_keys_GRd.copy_(keys_GRd[:, self._rows])
        new_values_GRd.copy_(values_GRd[:, self._rows])
        if self._sealed is not None:
            return self._sealed(layer, queries_HRd[:, self._rows.start :])
        queries_HRd = queries_HRd[:, self._rows]
        keys_GSd, values_GSd = self._so_far_LKGSd[layer]
        if self._is_long:
            return attend_causally(queries_HRd, keys_GSd, values_GSd)
        return attend(queries_HRd, keys_GSd, values_GSd, self._visible_RP)
