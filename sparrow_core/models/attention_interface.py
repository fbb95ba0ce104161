"""Our attention function under a name in transformers' registries, so that the library's own layers call it."""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from sparrow_core.decoding.attention import attend

SPARROW_ATTENTION = "sparrow_folded"


def _folded_attention(
    module: torch.nn.Module,
    query_1HRD: torch.Tensor,
    key_1GSD: torch.Tensor,
    value_1GSD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The library's signature: one sequence in, [1, R, H, D] out. The mask is `visible_RP` of `attend`."""
    attended_HRD = attend(query_1HRD[0], key_1GSD[0], value_1GSD[0], attention_mask, scaling)
    return attended_HRD.transpose(0, 1)[None], None


AttentionInterface.register(SPARROW_ATTENTION, _folded_attention)
AttentionMaskInterface.register(SPARROW_ATTENTION, sdpa_mask)
