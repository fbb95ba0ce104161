"""Attention of a few query rows against a long KV: each key and value is read once for all rows and heads of a group.

Query heads that share a KV head are folded into rows, so that keys and values are neither repeated nor copied, and the
mask covers only the new columns: every row sees the whole committed prefix.

Three functions for one formula. `attend` takes any mask; `attend_causally` takes many rows of a text, and never holds
their scores; both leave the order of summation to the library. `BatchInvariantAttention` fixes it, so that a row comes
out the same to the last bit whatever other rows stand beside it and in whichever slots its ancestors lie; it sums over
blocks of keys at places that depend on the sequence alone:

    slots    0 ......................... prompt | prompt + 128 | prompt + 256 ...
    blocks   [1024][1024] ... [remainder]       [128]          [128]  new rows by their depth, not by their slot

Shape letters: H query heads, G KV heads (groups), R query rows, M folded rows (heads of a group x rows), S key slots,
P the last key slots that are masked (P <= S), B key slots of one block, D head size.
"""

from math import gcd

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

PROMPT_BLOCK = 1024
# Up to 192 products (on AMD; 384 on Intel), MKL adds one by one, so that a masked column changes nothing; this leaves
# room for 64 new rows in a block.
GENERATED_BLOCK = 128
FOLDED_ROWS = 4  # rows beyond a multiple of it are multiplied by other kernels, with other results


def attend(
    queries_HRD: torch.Tensor,
    keys_GSD: torch.Tensor,
    values_GSD: torch.Tensor,
    visible_RP: torch.Tensor | None,
) -> torch.Tensor:
    """Scaled dot-product attention with grouped heads -> [H, R, D].

    `visible_RP` is True where a row sees one of the last P slots; None lets every row see every slot.
    """
    scores_GMS = _scores(queries_HRD * queries_HRD.shape[-1] ** -0.5, keys_GSD, visible_RP)
    return (torch.softmax(scores_GMS, dim=-1) @ values_GSD).view(queries_HRD.shape)


def attend_causally(queries_HRD: torch.Tensor, keys_GSD: torch.Tensor, values_GSD: torch.Tensor) -> torch.Tensor:
    """As `attend`, for rows that are the last R slots and see every slot up to their own; the scores are never held."""
    by_device = causal_by_parts if queries_HRD.device.type == "cpu" else causal_by_mask
    return by_device(queries_HRD, keys_GSD, values_GSD)


def causal_by_mask(queries_HRD: torch.Tensor, keys_GSD: torch.Tensor, values_GSD: torch.Tensor) -> torch.Tensor:
    """`attend_causally` by the library's fused attention and a mask."""
    num_rows, num_slots = queries_HRD.shape[1], keys_GSD.shape[1]
    everything_RS = torch.ones(num_rows, num_slots, dtype=torch.bool, device=queries_HRD.device)
    visible_RS = everything_RS.tril_(num_slots - num_rows)
    inputs = (queries_HRD[None], keys_GSD[None], values_GSD[None])
    return scaled_dot_product_attention(*inputs, visible_RS, enable_gqa=True)[0]


def causal_by_parts(queries_HRD: torch.Tensor, keys_GSD: torch.Tensor, values_GSD: torch.Tensor) -> torch.Tensor:
    """`attend_causally` on a CPU, where a mask would be read for every head: half of the time at 25,000 slots.

    The slots before the rows need no mask. The two parts are weighed by the logarithms of their sums of weights.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    num_rows, num_slots, num_groups = queries_HRD.shape[1], keys_GSD.shape[1], len(keys_GSD)
    first, repeats = num_slots - num_rows, len(queries_HRD) // num_groups
    own_1HRD = [x_GSD[:, first:].repeat_interleave(repeats, 0)[None] for x_GSD in (keys_GSD, values_GSD)]
    own, own_log_sum = flash(queries_HRD[None], *own_1HRD, is_causal=True)
    if first == 0:
        return own[0]
    folded_1GMD = queries_HRD.reshape(1, num_groups, -1, queries_HRD.shape[-1])
    before, before_log_sum = flash(folded_1GMD, keys_GSD[None, :, :first], values_GSD[None, :, :first])
    share_HR = torch.sigmoid(own_log_sum.view(-1, num_rows) - before_log_sum.reshape(-1, num_rows))
    return torch.lerp(before.reshape(queries_HRD.shape), own[0], share_HR[..., None].to(own.dtype))


def _scores(queries_HRD: torch.Tensor, keys_GSD: torch.Tensor, visible_RP: torch.Tensor | None) -> torch.Tensor:
    """Products of scaled queries and keys [G, M, S], -inf where a row does not see a slot."""
    num_groups, num_slots, _ = keys_GSD.shape
    num_rows = queries_HRD.shape[1]
    scores_GMS = queries_HRD.reshape(num_groups, -1, queries_HRD.shape[-1]) @ keys_GSD.transpose(1, 2)
    if visible_RP is not None:
        by_head_GHRS = scores_GMS.view(num_groups, -1, num_rows, num_slots)
        by_head_GHRS[..., num_slots - visible_RP.shape[1] :].masked_fill_(~visible_RP, float("-inf"))
    return scores_GMS


class BatchInvariantAttention:
    """Attention of a pass's rows over one sequence whose prompt is sealed, in a fixed order of summation.

    Prepared once for all layers. A row's result depends on nothing but the row and the keys that it sees.
    """

    def __init__(
        self,
        data_LKGSD: torch.Tensor,
        num_rows: int,
        visible_RR: torch.Tensor | None,
        heads_per_group: int,
        prompt_slots: int,
    ) -> None:
        """`data_LKGSD` are the keys and values of all layers, the `num_rows` new rows last, parents before children.

        `prompt_slots` is the number of slots filled by prefill, the same for every pass of a sequence.
        """
        keys_LGSD, values_LGSD = data_LKGSD.unbind(1)
        first_new = keys_LGSD.shape[2] - num_rows
        self._num_rows = num_rows
        whole = FOLDED_ROWS // gcd(FOLDED_ROWS, heads_per_group)
        self._num_folded = -(-num_rows // whole) * whole  # rows of one head
        self._scale = keys_LGSD.shape[3] ** -0.5
        self._keys_GDS = keys_LGSD.transpose(2, 3).unbind()
        self._hidden_MR = _hidden(visible_RR, self._num_folded, heads_per_group, keys_LGSD.dtype)
        self._new = slice(first_new, first_new + num_rows)
        self._prompt = slice(0, prompt_slots)
        in_blocks = prompt_slots // PROMPT_BLOCK * PROMPT_BLOCK
        self._in_blocks = slice(0, in_blocks)
        blocks_LGNBD = values_LGSD[:, :, :in_blocks].unflatten(2, (in_blocks // PROMPT_BLOCK, PROMPT_BLOCK))
        self._blocks_GNBD = blocks_LGNBD.unbind() if in_blocks else None
        self._rest = slice(in_blocks, prompt_slots)
        self._rest_GBD = values_LGSD[:, :, self._rest].unbind()
        self._generated = [
            (
                span,
                values_LGSD[:, :, span].unbind(),
                values_LGSD.new_ones(keys_LGSD.shape[1], span.stop - span.start, 1),
            )
            for span in _generated_spans(prompt_slots, first_new, num_rows)
        ]
        # New rows of this depth and more belong to the next block, wherever they stand.
        room = self._generated[-1][0].start + GENERATED_BLOCK - first_new
        self._is_late_R = visible_RR.sum(1) > room if visible_RR is not None and num_rows > room else None
        self._values_LGSD = values_LGSD

    def __call__(self, layer: int, queries_HRD: torch.Tensor) -> torch.Tensor:
        """Attention of the first of these queries, as many as there are new rows -> [H, R, D]. Others may follow."""
        queries_HRD = queries_HRD[:, : self._num_folded]
        if (spare := self._num_folded - queries_HRD.shape[1]) > 0:
            queries_HRD = pad(queries_HRD, (0, 0, 0, spare))
        queries_HRD = torch.mul(queries_HRD, self._scale).contiguous()
        keys_GDS = self._keys_GDS[layer]
        weights_GMS = torch.bmm(queries_HRD.view(len(keys_GDS), -1, queries_HRD.shape[2]), keys_GDS)
        if self._hidden_MR is not None:
            weights_GMS[..., self._new].add_(self._hidden_MR)
        weights_GMS.sub_(weights_GMS.amax(-1, keepdim=True)).exp_()
        sums_GMD = torch.bmm(weights_GMS[..., self._rest], self._rest_GBD[layer])
        totals_GM1 = weights_GMS[..., self._prompt].sum(-1, keepdim=True)
        if self._blocks_GNBD is not None:
            sums_GMD += _block_sums(weights_GMS[..., self._in_blocks], self._blocks_GNBD[layer])
        late_GMR = None
        if self._is_late_R is not None:
            late_GMR = weights_GMS[..., self._new] * self._is_late_R
            weights_GMS[..., self._new].mul_(~self._is_late_R)
        for span, values, ones_GB1 in self._generated:
            weights_GMB = weights_GMS[..., span]
            sums_GMD += torch.bmm(weights_GMB, values[layer])
            totals_GM1 += torch.bmm(weights_GMB, ones_GB1)
        if late_GMR is not None:
            new_GRD = self._values_LGSD[layer, :, self._new]
            sums_GMD += torch.bmm(late_GMR, new_GRD)
            totals_GM1 += torch.bmm(late_GMR, torch.ones_like(new_GRD[..., :1]))
        return sums_GMD.div_(totals_GM1).view(queries_HRD.shape)[:, : self._num_rows]


def _hidden(
    visible_RR: torch.Tensor | None, num_rows: int, heads_per_group: int, dtype: torch.dtype
) -> torch.Tensor | None:
    """What is added to scores of folded rows at the new slots: -inf where a row must not see. Rows beyond see all."""
    if visible_RR is None:
        return None
    visible_RR = pad(visible_RR, (0, 0, 0, num_rows - len(visible_RR)), value=True)
    hidden_RR = torch.zeros(visible_RR.shape, dtype=dtype, device=visible_RR.device)
    return hidden_RR.masked_fill_(~visible_RR, float("-inf")).repeat(heads_per_group, 1)


def _block_sums(weights_GMS: torch.Tensor, values_GNBD: torch.Tensor) -> torch.Tensor:
    """Weighted sums [G, M, D] over N blocks of the prompt, the same blocks in every pass."""
    num_blocks, block_slots = values_GNBD.shape[1:3]
    by_group = zip(weights_GMS, values_GNBD, strict=True)
    return torch.stack([
        torch.bmm(weights_MS.unflatten(1, (num_blocks, block_slots)).transpose(0, 1), values_NBD).sum(0)
        for weights_MS, values_NBD in by_group
    ])  # fmt: skip


def _generated_spans(prompt_slots: int, first_new: int, num_rows: int) -> list[slice]:
    """The blocks behind the prompt; the new rows are in the last, however many they are."""
    start, spans = prompt_slots, []
    while start + GENERATED_BLOCK <= first_new:
        spans.append(slice(start, start + GENERATED_BLOCK))
        start += GENERATED_BLOCK
    return [*spans, slice(start, first_new + num_rows)]


def causal_mask(num_rows: int, device: torch.device) -> torch.Tensor | None:
    """Visibility of new rows among themselves in reading order: bool [R, R], or None for a single row."""
    if num_rows == 1:
        return None
    return torch.ones(num_rows, num_rows, dtype=torch.bool, device=device).tril_()
