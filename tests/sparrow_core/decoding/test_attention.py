"""Folded heads against the textbook: heads repeated, scores masked, softmax in float64."""

import pytest
import torch

from sparrow_core.decoding.attention import attend, causal_mask


def textbook(q_HRD: torch.Tensor, k_GSD: torch.Tensor, v_GSD: torch.Tensor, visible_RS: torch.Tensor) -> torch.Tensor:
    q, k, v = q_HRD.double(), k_GSD.double(), v_GSD.double()
    k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], dim=0) for x in (k, v))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    return scores.masked_fill(~visible_RS, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 1), (3, 3)])
@pytest.mark.parametrize(("rows", "prefix", "pending"), [(1, 40, 0), (5, 40, 0), (5, 0, 0), (3, 17, 4)])
def test_equals_textbook(heads: int, groups: int, rows: int, prefix: int, pending: int) -> None:
    generator = torch.Generator().manual_seed(rows + prefix)
    slots = prefix + pending + rows
    q = torch.randn(heads, rows, 16, generator=generator)
    # A view into a longer buffer, as the cache hands out.
    k, v = torch.randn(2, groups, slots + 9, 16, generator=generator)[:, :, :slots]
    visible_RP = torch.rand(rows, pending + rows, generator=generator) < 0.5
    visible_RP[:, pending:] |= torch.eye(rows, dtype=torch.bool)
    visible_RS = torch.cat([torch.ones(rows, prefix, dtype=torch.bool), visible_RP], dim=1)
    # float32 sums of at most 50 products: errors of a few units of 1e-7.
    torch.testing.assert_close(
        attend(q, k, v, visible_RP, 16**-0.5).double(), textbook(q, k, v, visible_RS), atol=5e-6, rtol=0
    )


def test_no_mask_sees_everything() -> None:
    q, k, v = torch.randn(2, 1, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    expected = textbook(q, k, v, torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(attend(q, k, v, None, 8**-0.5).double(), expected, atol=5e-6, rtol=0)


def test_causal_mask() -> None:
    assert causal_mask(1, torch.device("cpu")) is None
    assert causal_mask(3, torch.device("cpu")).tolist() == [[True, False, False], [True, True, False], [True] * 3]
