"""Attention of a few query rows against a long KV: each key and value is read once for all rows and heads of a group.

Query heads that share a KV head are folded into rows, so that keys and values are neither repeated nor copied, and the
mask covers only the new columns: every row sees the whole committed prefix.

Three functions for one formula. `attend` takes any mask; `attend_in_order` takes many rows of a text, and never holds
their scores; both leave the order of summation to the library. `attend_invariantly` fixes it, so that a row comes out
the same to the last bit whatever other rows stand beside it and in whichever slots its ancestors lie; it sums over
blocks of keys at places that depend on the sequence alone:

    slots    0 ......................... prompt | prompt + 256 | prompt + 512 ...
    blocks   [1024][1024] ... [remainder]       [256]          [256]  new rows by their depth, not by their slot

Shape letters: H query heads, G KV heads (groups), R query rows, M folded rows (heads of a group x rows), S key slots,
P the last key slots that are masked (P <= S), B key slots of one block, D head size.
"""

from collections.abc import Iterator

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import pad, scaled_dot_product_attention

PROMPT_BLOCK = 1024
# Up to 384 products, matrix libraries add one by one, so that a masked column changes nothing; this leaves room for
# 128 new rows in a block.
GENERATED_BLOCK = 256
MIN_FOLDED_ROWS = 4  # fewer rows are multiplied by another kernel, with another result


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
    scores_GMS = _scores(queries_HRD * scale, keys_GSD, visible_RP)
    return (torch.softmax(scores_GMS, dim=-1) @ values_GSD).view(queries_HRD.shape)


def attend_in_order(
    queries_HRD: torch.Tensor, keys_GSD: torch.Tensor, values_GSD: torch.Tensor, scale: float
) -> torch.Tensor:
    """As `attend`, for rows that are the last R slots and see every slot up to their own."""
    heads_1HRD, keys_1GSD, values_1GSD = queries_HRD[None], keys_GSD[None], values_GSD[None]
    num_rows, num_slots = queries_HRD.shape[1], keys_GSD.shape[1]
    if queries_HRD.device.type != "cpu":
        mask = causal_lower_right(num_rows, num_slots)
        return scaled_dot_product_attention(heads_1HRD, keys_1GSD, values_1GSD, mask, scale=scale, enable_gqa=True)[0]
    # There, torch would write the mask out and read it again for every head: half of the time at 25,000 slots. The
    # part before the rows needs no mask; what links the parts is the logarithm of each one's sum of weights.
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    first = num_slots - num_rows
    repeats = len(queries_HRD) // len(keys_GSD)
    own_1HRD = [x_1GSD[:, :, first:].repeat_interleave(repeats, 1) for x_1GSD in (keys_1GSD, values_1GSD)]
    own, own_log_sum = flash(heads_1HRD, *own_1HRD, is_causal=True, scale=scale)
    if first == 0:
        return own[0]
    folded_1GMD = queries_HRD.reshape(1, len(keys_GSD), -1, queries_HRD.shape[-1])
    before, before_log_sum = flash(folded_1GMD, keys_1GSD[:, :, :first], values_1GSD[:, :, :first], scale=scale)
    share_HR = torch.sigmoid(own_log_sum.view(-1, num_rows) - before_log_sum.reshape(-1, num_rows))
    return torch.lerp(before.reshape(queries_HRD.shape), own[0], share_HR[..., None].to(own.dtype))


def attend_invariantly(
    queries_HRD: torch.Tensor,
    keys_GSD: torch.Tensor,
    values_GSD: torch.Tensor,
    visible_RP: torch.Tensor | None,
    scale: float,
    prompt_slots: int,
) -> torch.Tensor:
    """As `attend`, with a result for each row that depends on nothing but the row and the keys that it sees.

    The rows are the last R slots (R = P; None is one row), parents before children. `prompt_slots` is the number of
    slots filled by prefill, the same for every pass of a sequence.
    """
    num_heads, num_rows, _ = queries_HRD.shape
    num_groups = keys_GSD.shape[0]
    spare = max(0, -(-MIN_FOLDED_ROWS * num_groups // num_heads) - num_rows)
    queries_HRD, padded_RP = queries_HRD * scale, visible_RP
    if spare:
        queries_HRD = pad(queries_HRD, (0, 0, 0, spare))
        padded_RP = None if visible_RP is None else pad(visible_RP, (0, 0, 0, spare))
    weights_GMS = _scores(queries_HRD, keys_GSD, padded_RP)
    weights_GMS.sub_(weights_GMS.amax(dim=-1, keepdim=True)).exp_()
    sums_GMD, totals_GM1 = _prompt_sums(weights_GMS[..., :prompt_slots], values_GSD[:, :prompt_slots])
    for columns, weights_GMB in _generated_blocks(weights_GMS, visible_RP, prompt_slots):
        values_GBD = values_GSD[:, columns]
        sums_GMD = sums_GMD + weights_GMB @ values_GBD
        totals_GM1 = totals_GM1 + weights_GMB @ torch.ones_like(values_GBD[..., :1])
    return (sums_GMD / totals_GM1).view(queries_HRD.shape)[:, :num_rows]


def _scores(queries_HRD: torch.Tensor, keys_GSD: torch.Tensor, visible_RP: torch.Tensor | None) -> torch.Tensor:
    """Products of scaled queries and keys [G, M, S], -inf where a row does not see a slot."""
    num_groups, num_slots, _ = keys_GSD.shape
    num_rows = queries_HRD.shape[1]
    scores_GMS = queries_HRD.reshape(num_groups, -1, queries_HRD.shape[-1]) @ keys_GSD.transpose(1, 2)
    if visible_RP is not None:
        by_head_GHRS = scores_GMS.view(num_groups, -1, num_rows, num_slots)
        by_head_GHRS[..., num_slots - visible_RP.shape[1] :].masked_fill_(~visible_RP, float("-inf"))
    return scores_GMS


def _prompt_sums(weights_GMS: torch.Tensor, values_GSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums [G, M, D] and sums of weights [G, M, 1] over the prompt: the same blocks in every pass."""
    num_blocks = values_GSD.shape[1] // PROMPT_BLOCK
    start = num_blocks * PROMPT_BLOCK
    sums_GMD = weights_GMS[..., start:] @ values_GSD[:, start:]
    totals_GM1 = weights_GMS[..., start:].sum(-1, keepdim=True)
    if num_blocks:
        blocks = [
            torch.bmm(
                weights_MS[:, :start].unflatten(1, (num_blocks, PROMPT_BLOCK)).transpose(0, 1),
                values_SD[:start].unflatten(0, (num_blocks, PROMPT_BLOCK)),
            ).sum(0)
            for weights_MS, values_SD in zip(weights_GMS, values_GSD, strict=True)
        ]
        sums_GMD = sums_GMD + torch.stack(blocks)
        totals_GM1 = totals_GM1 + weights_GMS[..., :start].sum(-1, keepdim=True)
    return sums_GMD, totals_GM1


def _generated_blocks(
    weights_GMS: torch.Tensor, visible_PP: torch.Tensor | None, prompt_slots: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Slots and weights of each block behind the prompt, in order."""
    num_slots = weights_GMS.shape[-1]
    num_new = 1 if visible_PP is None else len(visible_PP)
    first_new = num_slots - num_new
    start = prompt_slots
    while start + GENERATED_BLOCK <= first_new:
        yield slice(start, start + GENERATED_BLOCK), weights_GMS[..., start : start + GENERATED_BLOCK]
        start += GENERATED_BLOCK
    room = start + GENERATED_BLOCK - first_new  # new rows of this depth and more belong to the next block
    last_GMB = weights_GMS[..., start:]
    if visible_PP is None or num_new <= room:
        yield slice(start, num_slots), last_GMB
        return
    is_late_P = visible_PP.sum(1) > room
    new_GMP = weights_GMS[..., first_new:]
    late_GMP = new_GMP * is_late_P
    new_GMP *= ~is_late_P
    yield slice(start, num_slots), last_GMB
    yield slice(first_new, num_slots), late_GMP


def causal_mask(num_rows: int, device: torch.device) -> torch.Tensor | None:
    """Visibility of new rows among themselves in reading order: bool [R, R], or None for a single row."""
    if num_rows == 1:
        return None
    return torch.ones(num_rows, num_rows, dtype=torch.bool, device=device).tril_()
