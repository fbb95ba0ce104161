"""Our attention function under a name in transformers' registries, so that the library's own layers call it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from sparrow_core.decoding.attention import attend, attend_invariantly

SPARROW_ATTENTION = "sparrow_folded"


@dataclass(frozen=True)
class Sight:
    """What the rows of a pass see, handed through the library's layers in place of a mask.

    The first `num_rows` rows are real, the others padding. `prompt_length` is None while the prompt is being read, whose
    passes are the same for every way of decoding; behind it rows are summed in a fixed order.
    """

    num_rows: int
    visible_RP: torch.Tensor | None
    prompt_length: int | None


def _folded_attention(
    module: torch.nn.Module,
    query_1HRD: torch.Tensor,
    key_1GSD: torch.Tensor,
    value_1GSD: torch.Tensor,
    attention_mask: Sight,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The library's signature: one sequence in, [1, R, H, D] out, padding rows zero."""
    sight, num_padding = attention_mask, query_1HRD.shape[2] - attention_mask.num_rows
    inputs = (query_1HRD[0, :, : sight.num_rows], key_1GSD[0], value_1GSD[0], sight.visible_RP, scaling)
    if sight.prompt_length is None:
        attended_HRD = attend(*inputs)
    else:
        attended_HRD = attend_invariantly(*inputs, sight.prompt_length)
    return pad(attended_HRD.transpose(0, 1), (0, 0, 0, 0, 0, num_padding))[None], None


AttentionInterface.register(SPARROW_ATTENTION, _folded_attention)
AttentionMaskInterface.register(SPARROW_ATTENTION, sdpa_mask)
