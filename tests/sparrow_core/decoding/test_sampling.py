"""Sampling filters against transformers' own, and the distribution of choices under keyed noise."""

import pytest
import torch
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sparrow_core.decoding.sampling import choose, filtered_logits, probabilities
from sparrow_core.types import Sampling


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (12, 0.8), (1, 1.0), (0, 1e-9)])
def test_filters_agree_with_transformers(top_k: int, top_p: float) -> None:
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    expected = TemperatureLogitsWarper(0.7)(None, logits.double())
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    torch.testing.assert_close(filtered_logits(logits, Sampling(0.7, top_p, top_k)), expected)


def test_choices_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -9.0])
    sampling = Sampling(temperature=0.8, top_k=4)
    chosen = torch.cat(
        [choose(logits.expand(50, -1), Sampling(0.8, 1.0, 4, seed), torch.arange(50)) for seed in range(100)]
    )
    expected = probabilities(logits[None], sampling)[0]
    counts = torch.bincount(chosen, minlength=6).numpy()
    assert counts[expected.numpy() == 0].sum() == 0
    kept = expected.numpy() > 0
    assert stats.chisquare(counts[kept], expected.numpy()[kept] * len(chosen)).pvalue > 1e-3


def test_greedy_is_argmax_whatever_the_seed() -> None:
    logits = torch.randn(4, 9)
    assert torch.equal(choose(logits, Sampling(seed=5), torch.arange(4)), logits.argmax(-1))
