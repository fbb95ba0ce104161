"""Attention with folded heads against the textbook: heads repeated, scores masked, softmax in float64.

Shape letters: G KV heads, H query heads, K 2: keys and values, L layers, P pending slots of a cache, R rows of a pass,
S slots of a sequence, d head size.
"""

from collections.abc import Callable

import pytest
import torch

from sparrow_core.decoding.attention import (
    BatchInvariantAttention,
    attend,
    causal_by_mask,
    causal_by_parts,
    causal_mask,
)
from sparrow_core.decoding.tree import ancestors, depths


def textbook(q_HRd: torch.Tensor, k_GSd: torch.Tensor, v_GSd: torch.Tensor, visible_RS: torch.Tensor) -> torch.Tensor:
    q, k, v = q_HRd.double(), k_GSd.double(), v_GSd.double()
    k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], dim=0) for x in (k, v))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    return scores.masked_fill(~visible_RS, float("-inf")).softmax(-1) @ v


def sealed(
    q_HRd: torch.Tensor, k_GSd: torch.Tensor, v_GSd: torch.Tensor, visible_RR: torch.Tensor | None, prompt: int
) -> torch.Tensor:
    data_LKGSd = torch.stack([k_GSd, v_GSd])[None]
    return BatchInvariantAttention(data_LKGSd, q_HRd.shape[1], visible_RR, len(q_HRd) // len(k_GSd), prompt)(0, q_HRd)


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 1), (3, 3)])
@pytest.mark.parametrize(("rows", "prefix", "pending"), [(1, 40, 0), (5, 40, 0), (5, 0, 0), (3, 17, 4)])
def test_equals_textbook(heads: int, groups: int, rows: int, prefix: int, pending: int) -> None:
    generator = torch.Generator().manual_seed(rows + prefix)
    slots = prefix + pending + rows
    q = torch.randn(heads, rows, 16, generator=generator)
    # A view into a longer buffer, as the cache returns.
    k, v = torch.randn(2, groups, slots + 9, 16, generator=generator)[:, :, :slots]
    visible_RP = torch.rand(rows, pending + rows, generator=generator) < 0.5
    visible_RP[:, pending:] |= torch.eye(rows, dtype=torch.bool)
    visible_RS = torch.cat([torch.ones(rows, prefix, dtype=torch.bool), visible_RP], dim=1)
    # float32 sums of at most 50 products: errors of a few units of 1e-7.
    torch.testing.assert_close(attend(q, k, v, visible_RP).double(), textbook(q, k, v, visible_RS), atol=5e-6, rtol=0)


def test_no_mask_sees_everything() -> None:
    q, k, v = torch.randn(2, 1, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    expected = textbook(q, k, v, torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(attend(q, k, v, None).double(), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 1), (3, 3)])
@pytest.mark.parametrize(("rows", "prefix"), [(1, 40), (150, 0), (150, 700)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attend_causally", [causal_by_mask, causal_by_parts])
def test_causal_order_equals_textbook(
    attend_causally: Callable, heads: int, groups: int, rows: int, prefix: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(rows + prefix)
    q = torch.randn(heads, rows, 16, generator=generator).to(dtype)
    k, v = torch.randn(2, groups, prefix + rows + 9, 16, generator=generator).to(dtype)[:, :, : prefix + rows]
    visible_RS = torch.ones(rows, prefix + rows, dtype=torch.bool).tril(prefix)
    attended = attend_causally(q, k, v)
    # bfloat16: results of at most 4 in steps of 1/64.
    error = 5e-6 if dtype == torch.float32 else 4 / 64
    torch.testing.assert_close(attended.double(), textbook(q, k, v, visible_RS), atol=error, rtol=0)


def test_causal_mask() -> None:
    assert causal_mask(1, torch.device("cpu")) is None
    assert causal_mask(3, torch.device("cpu")).tolist() == [[True, False, False], [True, True, False], [True] * 3]


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 1), (3, 3)])
@pytest.mark.parametrize(("prompt", "committed", "rows"), [(10, 10, 1), (10, 40, 5), (2100, 2700, 5), (30, 285, 25)])
def test_fixed_order_equals_textbook(heads: int, groups: int, prompt: int, committed: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows + prompt)
    q, k, v = (torch.randn(n, s, 16, generator=generator) for n, s in
               ((heads, rows), (groups, committed + rows), (groups, committed + rows)))  # fmt: skip
    visible_RR = ancestors(torch.tensor([-1, *(i // 2 for i in range(rows - 1))]))
    visible_RS = torch.cat([torch.ones(rows, committed, dtype=torch.bool), visible_RR], dim=1)
    attended = sealed(q, k, v, None if rows == 1 else visible_RR, prompt)
    torch.testing.assert_close(attended.double(), textbook(q, k, v, visible_RS), atol=5e-6, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("committed", [520, 527, 640, 648, 655, 768, 1290, 5020])
@pytest.mark.parametrize("tree", ["chain", "wide", "random"])
def test_a_row_is_the_same_alone_and_in_a_tree(tree: str, committed: int, dtype: torch.dtype, threads: int) -> None:
    """Each row of a tree against a pass of one row, whose ancestors follow the committed slots directly."""
    heads, groups, size, prompt = 4, 2, 64, 520 if committed < 5000 else 4900
    generator = torch.Generator().manual_seed(committed)
    parents = {
        "chain": list(range(-1, 24)),
        "wide": [-1, *[0] * 8, *range(1, 9), *range(9, 17)],
        "random": [-1, *(int(torch.randint(i + 1, (), generator=generator)) for i in range(30))],
    }[tree]
    rows = len(parents)
    q = torch.randn(heads, rows, size, generator=generator).to(dtype)
    k, v = torch.randn(2, groups, committed + rows, size, generator=generator).to(dtype)
    visible_RR = ancestors(torch.tensor(parents))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = sealed(q, k, v, visible_RR, prompt)
        for row in range(rows):
            slots = [*range(committed), *(committed + visible_RR[row].nonzero()[:, 0]).tolist()]
            alone = sealed(q[:, row : row + 1], k[:, slots], v[:, slots], None, prompt)
            assert torch.equal(alone[:, 0], together[:, row]), f"row {row}, depth {depths(torch.tensor(parents))[row]}"
    finally:
        torch.set_num_threads(before)
