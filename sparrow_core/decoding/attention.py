"""Attention of a few query rows to a long KV cache: each key and value is read once for all rows and heads of a group.

Query heads that share a KV head are folded into rows, so that keys and values are neither repeated nor copied. The mask
covers only the pending slots, because every row sees the whole committed prefix.

Three functions compute the same formula. `attend` takes any mask. `attend_causally` takes many rows of a text and never
stores their scores. Both leave the order of summation to the library. `BatchInvariantAttention` fixes that order: a
row's result is the same to the last bit whatever other rows are in the pass and whichever slots its ancestors occupy.
It sums over blocks of keys, whose boundaries depend on the sequence alone:

    slots    0 ......................... prompt | prompt + 128 | prompt + 256 ...
    blocks   [1024][1024] ... [remainder]       [128]          [128]  new rows by their depth, not by their slot

Shape letters: G KV heads, H query heads, K 2: keys and values, L layers, O slots of one block of keys, P pending slots
of a cache, Q query rows folded with the heads of their group, R rows of a pass, S slots of a sequence, d head size,
h query heads of one KV head.
"""

from math import gcd

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

PROMPT_BLOCK = 1024
# MKL adds up to 192 products one by one (on AMD; 384 on Intel), so that a masked column changes nothing. 128 leaves
# room for 64 new rows in a block.
GENERATED_BLOCK = 128
FOLDED_ROWS = 4  # rows beyond a multiple of 4 are multiplied by other kernels, with other results


def attend(
    queries_HRd: torch.Tensor,
    keys_GSd: torch.Tensor,
    values_GSd: torch.Tensor,
    visible_RP: torch.Tensor | None,
) -> torch.Tensor:
    """Scaled dot-product attention with grouped heads -> [H, R, d].

    `visible_RP` is True where a row sees one of the last P slots; None lets every row see every slot.
    """
    scores_GQS = _scores(queries_HRd * queries_HRd.shape[-1] ** -0.5, keys_GSd, visible_RP)
    return (torch.softmax(scores_GQS, dim=-1) @ values_GSd).view(queries_HRd.shape)


def attend_causally(queries_HRd: torch.Tensor, keys_GSd: torch.Tensor, values_GSd: torch.Tensor) -> torch.Tensor:
    """`attend` for rows that are the last R slots, each seeing every slot up to its own; scores are never stored."""
    by_device = causal_by_parts if queries_HRd.device.type == "cpu" else causal_by_mask
    return by_device(queries_HRd, keys_GSd, values_GSd)


def causal_by_mask(queries_HRd: torch.Tensor, keys_GSd: torch.Tensor, values_GSd: torch.Tensor) -> torch.Tensor:
    """`attend_causally` by the library's fused attention and a mask."""
    num_rows, num_slots = queries_HRd.shape[1], keys_GSd.shape[1]
    everything_RS = torch.ones(num_rows, num_slots, dtype=torch.bool, device=queries_HRd.device)
    visible_RS = everything_RS.tril_(num_slots - num_rows)
    inputs = (queries_HRd[None], keys_GSd[None], values_GSd[None])
    return scaled_dot_product_attention(*inputs, visible_RS, enable_gqa=True)[0]


def causal_by_parts(queries_HRd: torch.Tensor, keys_GSd: torch.Tensor, values_GSd: torch.Tensor) -> torch.Tensor:
    """`attend_causally` on a CPU, in half the time of `causal_by_mask` at 25,000 slots: a mask is read for every head.

    The slots before the rows need no mask. Attention to them and to the rows' own slots is computed apart, and the two
    results are weighted by the logarithms of their sums of weights.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    num_rows, num_slots, num_groups = queries_HRd.shape[1], keys_GSd.shape[1], len(keys_GSd)
    first, repeats = num_slots - num_rows, len(queries_HRd) // num_groups
    own_1HRd = [x_GSd[:, first:].repeat_interleave(repeats, 0)[None] for x_GSd in (keys_GSd, values_GSd)]
    own, own_log_sum = flash(queries_HRd[None], *own_1HRd, is_causal=True)
    if first == 0:
        return own[0]
    folded_1GQd = queries_HRd.reshape(1, num_groups, -1, queries_HRd.shape[-1])
    before, before_log_sum = flash(folded_1GQd, keys_GSd[None, :, :first], values_GSd[None, :, :first])
    share_HR = torch.sigmoid(own_log_sum.view(-1, num_rows) - before_log_sum.reshape(-1, num_rows))
    return torch.lerp(before.reshape(queries_HRd.shape), own[0], share_HR[..., None].to(own.dtype))


def _scores(queries_HRd: torch.Tensor, keys_GSd: torch.Tensor, visible_RP: torch.Tensor | None) -> torch.Tensor:
    """Products of scaled queries and keys [G, Q, S], -inf where a row does not see a slot."""
    num_groups, num_slots, _ = keys_GSd.shape
    num_rows = queries_HRd.shape[1]
    scores_GQS = queries_HRd.reshape(num_groups, -1, queries_HRd.shape[-1]) @ keys_GSd.transpose(1, 2)
    if visible_RP is not None:
        scores_GhRS = scores_GQS.view(num_groups, -1, num_rows, num_slots)
        scores_GhRS[..., num_slots - visible_RP.shape[1] :].masked_fill_(~visible_RP, float("-inf"))
    return scores_GQS


class BatchInvariantAttention:
    """Attention of one sequence's rows in a pass, in a fixed order of summation. The prompt must be sealed.

    Prepared once for all layers. A row's result depends on nothing but the row and the keys that it sees.
    """

    def __init__(
        self,
        data_LKGSd: torch.Tensor,
        num_rows: int,
        visible_RR: torch.Tensor | None,
        heads_per_group: int,
        prompt_slots: int,
    ) -> None:
        """`data_LKGSd` are the keys and values of all layers, the `num_rows` new rows last, parents before children.

        `prompt_slots` is the number of slots filled by prefill, the same for every pass of a sequence.
        """
        keys_LGSd, values_LGSd = data_LKGSd.unbind(1)
        first_new = keys_LGSd.shape[2] - num_rows
        self._num_rows = num_rows
        multiple = FOLDED_ROWS // gcd(FOLDED_ROWS, heads_per_group)
        self._num_padded = -(-num_rows // multiple) * multiple  # rows of one head
        self._scale = keys_LGSd.shape[3] ** -0.5
        self._keys_GdS = keys_LGSd.transpose(2, 3).unbind()
        self._mask_QR = _additive_mask(visible_RR, self._num_padded, heads_per_group, keys_LGSd.dtype)
        self._new = slice(first_new, first_new + num_rows)
        self._prompt = slice(0, prompt_slots)
        in_blocks = prompt_slots // PROMPT_BLOCK * PROMPT_BLOCK
        self._in_blocks = slice(0, in_blocks)
        blocks = values_LGSd[:, :, :in_blocks].unflatten(2, (in_blocks // PROMPT_BLOCK, PROMPT_BLOCK))
        self._prompt_blocks = blocks.unbind() if in_blocks else None  # of each layer [G, blocks, O, d]
        self._remainder = slice(in_blocks, prompt_slots)
        self._remainder_GOd = values_LGSd[:, :, self._remainder].unbind()
        self._generated = [
            (
                span,
                values_LGSd[:, :, span].unbind(),
                values_LGSd.new_ones(keys_LGSd.shape[1], span.stop - span.start, 1),
            )
            for span in _generated_spans(prompt_slots, first_new, num_rows)
        ]
        # A new row at this depth or deeper belongs to the next block, whatever its slot.
        room = self._generated[-1][0].start + GENERATED_BLOCK - first_new
        self._is_late_R = visible_RR.sum(1) > room if visible_RR is not None and num_rows > room else None
        self._values_LGSd = values_LGSd

    def __call__(self, layer: int, queries_HRd: torch.Tensor) -> torch.Tensor:
        """Attention of the new rows, which are the first of these queries; more may follow -> [H, R, d]."""
        queries_HRd = queries_HRd[:, : self._num_padded]
        if (num_missing := self._num_padded - queries_HRd.shape[1]) > 0:
            queries_HRd = pad(queries_HRd, (0, 0, 0, num_missing))
        queries_HRd = torch.mul(queries_HRd, self._scale).contiguous()
        keys_GdS = self._keys_GdS[layer]
        weights_GQS = torch.bmm(queries_HRd.view(len(keys_GdS), -1, queries_HRd.shape[2]), keys_GdS)
        if self._mask_QR is not None:
            weights_GQS[..., self._new].add_(self._mask_QR)
        weights_GQS.sub_(weights_GQS.amax(-1, keepdim=True)).exp_()
        sums_GQd = torch.bmm(weights_GQS[..., self._remainder], self._remainder_GOd[layer])
        totals_GQ1 = weights_GQS[..., self._prompt].sum(-1, keepdim=True)
        if self._prompt_blocks is not None:
            sums_GQd += _block_sums(weights_GQS[..., self._in_blocks], self._prompt_blocks[layer])
        late_GQR = None
        if self._is_late_R is not None:
            late_GQR = weights_GQS[..., self._new] * self._is_late_R
            weights_GQS[..., self._new].mul_(~self._is_late_R)
        for span, values_GOd, ones_GO1 in self._generated:
            weights_GQO = weights_GQS[..., span]
            sums_GQd += torch.bmm(weights_GQO, values_GOd[layer])
            totals_GQ1 += torch.bmm(weights_GQO, ones_GO1)
        if late_GQR is not None:
            new_GRd = self._values_LGSd[layer, :, self._new]
            sums_GQd += torch.bmm(late_GQR, new_GRd)
            totals_GQ1 += torch.bmm(late_GQR, torch.ones_like(new_GRd[..., :1]))
        return sums_GQd.div_(totals_GQ1).view(queries_HRd.shape)[:, : self._num_rows]


def _additive_mask(
    visible_RR: torch.Tensor | None, num_padded: int, heads_per_group: int, dtype: torch.dtype
) -> torch.Tensor | None:
    """What is added to scores at the new slots [Q, R]: -inf where a row must not see, else 0. Padding sees all."""
    if visible_RR is None:
        return None
    visible_RR = pad(visible_RR, (0, 0, 0, num_padded - len(visible_RR)), value=True)
    mask_RR = torch.zeros(visible_RR.shape, dtype=dtype, device=visible_RR.device)
    return mask_RR.masked_fill_(~visible_RR, float("-inf")).repeat(heads_per_group, 1)


def _block_sums(weights_GQS: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Weighted sums of values [G, Q, d] over the prompt's whole blocks [G, blocks, O, d], the same in every pass."""
    num_blocks, block_slots = blocks.shape[1:3]
    by_group = zip(weights_GQS, blocks, strict=True)
    return torch.stack([
        torch.bmm(weights_QS.unflatten(1, (num_blocks, block_slots)).transpose(0, 1), group_blocks).sum(0)
        for weights_QS, group_blocks in by_group
    ])  # fmt: skip


def _generated_spans(prompt_slots: int, first_new: int, num_rows: int) -> list[slice]:
    """The blocks after the prompt; the last one holds all new rows, however many there are."""
    start, spans = prompt_slots, []
    while start + GENERATED_BLOCK <= first_new:
        spans.append(slice(start, start + GENERATED_BLOCK))
        start += GENERATED_BLOCK
    return [*spans, slice(start, first_new + num_rows)]


def causal_mask(num_rows: int, device: torch.device) -> torch.Tensor | None:
    """Visibility among new rows in causal order: bool [R, R], or None for a single row."""
    if num_rows == 1:
        return None
    return torch.ones(num_rows, num_rows, dtype=torch.bool, device=device).tril_()
