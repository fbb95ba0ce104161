"""Attention of a few query rows against a long KV: each key and value is read once for all rows and heads of a group.

Query heads that share a KV head are folded into rows, so that keys and values are neither repeated nor copied, and the
mask covers only the new columns: every row sees the whole committed prefix.
Shape letters: H query heads, G KV heads (groups), R query rows, S key slots, P the last key slots that are masked
(P <= S), D head size.
"""

import torch


def attend(
    queries_HRD: torch.Tensor,
    keys_GSD: torch.Tensor,
    values_GSD: torch.Tensor,
    visible_RP: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Scaled dot-product attention with grouped heads -> [H, R, D].

    `visible_RP` is True where a row sees one of the last P slots; None lets every row see every slot.
    """
    num_heads, num_rows, head_dim = queries_HRD.shape
    num_groups, num_slots, _ = keys_GSD.shape
    folded_GMD = (queries_HRD * scale).reshape(num_groups, num_heads // num_groups * num_rows, head_dim)
    scores_GMS = folded_GMD @ keys_GSD.transpose(1, 2)
    if visible_RP is not None:
        by_head_GHRS = scores_GMS.view(num_groups, -1, num_rows, num_slots)
        by_head_GHRS[..., num_slots - visible_RP.shape[1] :].masked_fill_(~visible_RP, float("-inf"))
    weights_GMS = torch.softmax(scores_GMS, dim=-1)
    return (weights_GMS @ values_GSD).view(num_heads, num_rows, head_dim)


def causal_mask(num_rows: int, device: torch.device) -> torch.Tensor | None:
    """Visibility of new rows among themselves in reading order: bool [R, R], or None for a single row."""
    if num_rows == 1:
        return None
    return torch.ones(num_rows, num_rows, dtype=torch.bool, device=device).tril_()
