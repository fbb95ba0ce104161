"""One pass over rows of several sequences, each with a cache of its own: what every layer writes and attends to."""

from collections.abc import Sequence

import torch

from sparrow_core.decoding.attention import attend, attend_in_order, attend_invariantly, causal_mask
from sparrow_core.decoding.target import SequenceRows

# From here on it costs less not to hold the scores of rows in reading order.
MANY_ROWS = 128


class PassAttention:
    """The caches of a pass's sequences, whose rows stand one after the other. Rows beyond them are padding.

    Shape letters: H query heads, G KV heads, R rows of all sequences and padding, d head size.
    """

    def __init__(self, sequences: Sequence[SequenceRows]) -> None:
        self._sequences = sequences
        for sequence in sequences:
            sequence.cache.extend(sequence.num_rows)
        self._masks = [_mask(sequence) for sequence in sequences]

    def attend(
        self, layer: int, queries_HRd: torch.Tensor, keys_GRd: torch.Tensor, values_GRd: torch.Tensor
    ) -> torch.Tensor:
        """Write one layer's keys and values; attention of every row over its own sequence [H, R, d], padding zero."""
        scale = queries_HRd.shape[-1] ** -0.5
        attended, first = [], 0
        for sequence, visible_RP in zip(self._sequences, self._masks, strict=True):
            rows = slice(first, first := first + sequence.num_rows)
            keys_GSd, values_GSd = sequence.cache.update(keys_GRd[:, rows], values_GRd[:, rows], layer)
            inputs = (queries_HRd[:, rows], keys_GSd, values_GSd)
            prompt = sequence.cache.prompt_length
            if prompt is not None:
                attended.append(attend_invariantly(*inputs, visible_RP, scale, prompt))
            elif sequence.visible_RP is None and sequence.num_rows >= MANY_ROWS:
                attended.append(attend_in_order(*inputs, scale))
            else:
                attended.append(attend(*inputs, visible_RP, scale))
        num_padding = queries_HRd.shape[1] - first
        if num_padding:
            attended.append(torch.zeros_like(queries_HRd[:, :num_padding]))
        return torch.cat(attended, 1) if len(attended) > 1 else attended[0]


def _mask(sequence: SequenceRows) -> torch.Tensor | None:
    """What the rows see of each other, reading order written out."""
    if sequence.visible_RP is not None:
        return sequence.visible_RP
    return causal_mask(sequence.num_rows, sequence.cache.data_LKGSD.device)
