"""Each loss against a plain per-position computation in float64."""

import math

import torch

from sparrow_core.config import LossConfig
from sparrow_core.distill.losses import combined, probability_l1, ranking, soft_cross_entropy, state_smooth_l1


def probabilities(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def test_losses_equal_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    pairs = [(probabilities(q), probabilities(p)) for q, p in zip(logits.tolist(), target.tolist(), strict=True)]
    entropy = -sum(p * math.log(q) for qs, ps in pairs for q, p in zip(qs, ps, strict=True))
    distance = sum(abs(p - q) for qs, ps in pairs for q, p in zip(qs, ps, strict=True))
    # Sums of 35 float32 terms of order 1.
    assert math.isclose(soft_cross_entropy(logits, target).item(), entropy, rel_tol=1e-5)
    assert math.isclose(probability_l1(logits, target).item(), distance, rel_tol=1e-5)


def test_smooth_l1_is_quadratic_then_linear_and_averages_features() -> None:
    hidden, target = torch.tensor([[0.5, 3.0], [0.0, 0.0]]), torch.zeros(2, 2)
    expected = (0.5 * 0.5**2 + (3.0 - 0.5)) / 2
    assert math.isclose(state_smooth_l1(hidden, target).item(), expected, rel_tol=1e-6)


def test_soft_cross_entropy_is_least_at_the_target() -> None:
    target = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    logits = target.clone().requires_grad_()
    soft_cross_entropy(logits, target).backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_terms_of_weight_zero_are_left_out() -> None:
    logits, target = torch.randn(3, 5), torch.randn(3, 5)
    hidden = torch.full((3, 2), torch.nan)
    only_text = combined(hidden, hidden, logits, target, LossConfig(state_smooth_l1=0.0))
    assert torch.equal(only_text, soft_cross_entropy(logits, target))
    mixed = combined(torch.ones(3, 2), torch.zeros(3, 2), logits, target, LossConfig(0.5, 2.0, 0.25))
    by_hand = 0.5 * soft_cross_entropy(logits, target) + 2.0 * 3 * 0.5 + 0.25 * probability_l1(logits, target)
    torch.testing.assert_close(mixed, by_hand)


def test_ranking_is_the_chance_of_drawing_the_targets_order() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, target = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    expected = 0.0
    for drafted, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        order = sorted(range(6), key=lambda token: -wanted[token])[:3]
        for rank, token in enumerate(order):
            expected -= math.log(math.exp(drafted[token]) / sum(math.exp(drafted[other]) for other in order[rank:]))
    assert math.isclose(ranking(logits, target, 3).item(), expected, rel_tol=1e-5)
