"""Our attention function under a name in transformers' registries, so that the library's own layers call it."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from sparrow_core.decoding.attention import attend, attend_invariantly
from sparrow_core.decoding.target import SequenceRows

SPARROW_ATTENTION = "sparrow_folded"


class PassCache:
    """The caches of a pass's sequences, as one object that the library's layers carry through as cache and as mask.

    It has the one method that they call on a cache (`update`). Rows beyond those of the sequences are padding.
    """

    def __init__(self, sequences: Sequence[SequenceRows]) -> None:
        self._sequences = sequences
        for sequence in sequences:
            sequence.cache.extend(sequence.num_rows)

    def update(
        self, keys_1GRD: torch.Tensor, values_1GRD: torch.Tensor, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's rows to their caches; what it returns is what `attend` below is called with."""
        self._seen, first = [], 0
        for sequence in self._sequences:
            rows = slice(first, first := first + sequence.num_rows)
            self._seen.append(sequence.cache.update(keys_1GRD[0, :, rows], values_1GRD[0, :, rows], layer))
        return keys_1GRD, values_1GRD

    def attend(self, query_HRD: torch.Tensor, scale: float) -> torch.Tensor:
        """Attention of every row over its own sequence, right after `update` of the same layer; padding rows zero."""
        attended, first = [], 0
        for sequence, (keys_GSD, values_GSD) in zip(self._sequences, self._seen, strict=True):
            rows = slice(first, first := first + sequence.num_rows)
            inputs = (query_HRD[:, rows], keys_GSD, values_GSD, sequence.visible_RP, scale)
            prompt = sequence.cache.prompt_length
            attended.append(attend(*inputs) if prompt is None else attend_invariantly(*inputs, prompt))
        num_padding = query_HRD.shape[1] - first
        if num_padding:
            attended.append(torch.zeros_like(query_HRD[:, :num_padding]))
        return torch.cat(attended, 1) if len(attended) > 1 else attended[0]


def _folded_attention(
    module: torch.nn.Module,
    query_1HRD: torch.Tensor,
    key_1GRD: torch.Tensor,
    value_1GRD: torch.Tensor,
    attention_mask: PassCache,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The library's signature: new rows in, [1, R, H, D] out."""
    return attention_mask.attend(query_1HRD[0], scaling).transpose(0, 1)[None], None


AttentionInterface.register(SPARROW_ATTENTION, _folded_attention)
AttentionMaskInterface.register(SPARROW_ATTENTION, sdpa_mask)
