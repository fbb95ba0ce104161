"""The target's embedding and lm_head as plain matrices: all of the target that training a drafter needs.

Shape letters: D hidden size, V vocabulary.
"""

from dataclasses import dataclass

import torch

from sparrow_core.decoding.target import TargetModel

_ROWS_AT_ONCE = 256  # so that the device never holds a second copy of a whole matrix


@dataclass(frozen=True)
class TargetTables:
    """The two matrices of the target that a drafter reads."""

    embed_tokens_VD: torch.Tensor
    lm_head_VD: torch.Tensor

    def in_float32(self) -> "TargetTables":
        return TargetTables(self.embed_tokens_VD.float(), self.lm_head_VD.float())


def target_tables(target: TargetModel) -> TargetTables:
    """Read both matrices through the target's own functions, onto the CPU."""
    info = target.info
    ids = torch.arange(info.vocab_size, device=info.device).split(_ROWS_AT_ONCE)
    units = torch.eye(info.hidden_size, device=info.device, dtype=info.dtype).split(_ROWS_AT_ONCE)
    with torch.no_grad():
        embed_tokens_VD = torch.cat([target.embed_tokens(some).cpu() for some in ids])
        lm_head_DV = torch.cat([target.logits(some).to(info.dtype).cpu() for some in units])
    return TargetTables(embed_tokens_VD, lm_head_DV.T.contiguous())
