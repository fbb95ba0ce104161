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


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.25, 1),
        (0.5, 2),  # two tokens reach it exactly: no third one
        (0.5 + 1e-9, 3),
        (0.75, 3),
        (1 - 1e-9, 4),
        (1.0, 4),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int) -> None:
    """Four tokens of a quarter each: all sums are exact."""
    for temperature in (0.5, 1.0, 2.0):
        filtered_V = filtered_logits(torch.zeros(1, 4), Sampling(temperature, top_p))[0]
        assert filtered_V.isfinite().tolist() == [index < kept for index in range(4)]


def test_top_p_is_about_what_temperature_and_top_k_leave() -> None:
    """Of 1/2, 1/4, 1/8, 1/8 the first has 2/3 of what top-k 2 leaves, and 0.73 of all at temperature 1/2."""
    logits_1V = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()

    def kept(sampling: Sampling) -> int:
        return int(filtered_logits(logits_1V, sampling).isfinite().sum())

    assert [kept(Sampling(1.0, top_p, 2)) for top_p in (0.66, 0.67)] == [1, 2]
    assert [kept(Sampling(0.5, top_p)) for top_p in (0.72, 0.74)] == [1, 2]
    assert [kept(Sampling(1.0, top_p)) for top_p in (0.49, 0.51, 0.74, 0.76)] == [1, 2, 2, 3]


def test_top_k_keeps_what_is_level_with_the_last_of_them() -> None:
    logits_1V = torch.tensor([[3.0, 2.0, 2.0, 1.0]])
    assert filtered_logits(logits_1V, Sampling(1.0, top_k=2)).isfinite().tolist() == [[True, True, True, False]]


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
