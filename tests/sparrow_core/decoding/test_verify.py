"""Verification of trees by hand, and one level of rejection sampling as an exact integral over its random numbers."""

import itertools

import pytest
import torch

from sparrow_core.decoding.verify import match, reject, verify
from sparrow_core.types import Draft, Sampling, Verdict

#     0:7 -> 1:3 -> 3:5
#         -> 2:4 -> 4:6
TREE = Draft(torch.tensor([7, 3, 4, 5, 6]), torch.tensor([-1, 0, 0, 1, 2]))


@pytest.mark.parametrize(
    ("choices", "verdict"),
    [
        ([9, 0, 0, 0, 0], Verdict((0,), 9)),
        ([3, 9, 0, 0, 0], Verdict((0, 1), 9)),
        ([3, 5, 0, 8, 0], Verdict((0, 1, 3), 8)),
        ([4, 0, 6, 0, 1], Verdict((0, 2, 4), 1)),
        ([4, 5, 5, 0, 0], Verdict((0, 2), 5)),
    ],
)
def test_match_follows_the_targets_choices(choices: list[int], verdict: Verdict) -> None:
    assert match(TREE, torch.tensor(choices)) == verdict


def test_greedy_verification_follows_argmax() -> None:
    logits_NV = torch.zeros(5, 10)
    logits_NV[torch.arange(5), torch.tensor([4, 0, 6, 0, 2])] = 1.0
    assert verify(TREE, logits_NV, Sampling(), position=1, round_index=0) == Verdict((0, 2, 4), 2)


def test_noise_is_keyed_by_the_depth_of_each_node() -> None:
    """A sampled walk equals the choices of one-row steps at consecutive positions."""
    from sparrow_core.decoding.sampling import choose

    logits_NV = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(temperature=1.0, seed=3)
    for position in range(20):
        first = int(choose(logits_NV[:1], sampling, torch.tensor([position])))
        draft = Draft(torch.tensor([7, first, (first + 1) % 10]), torch.tensor([-1, 0, 0]))
        second = int(choose(logits_NV[1:2], sampling, torch.tensor([position + 1])))
        assert verify(draft, logits_NV[:3], sampling, position, 0) == Verdict((0, 1), second)


def test_one_level_of_rejection_gives_the_targets_distribution_exactly() -> None:
    """Sum over all ordered pairs of siblings drawn without replacement, and over a grid of the three random numbers."""
    target_V, proposal_V = torch.tensor([0.5, 0.3, 0.2, 0.0]).double(), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    grid = (torch.arange(8).double() + 0.5) / 8
    law_V = torch.zeros(4, dtype=torch.float64)
    for first, second in itertools.permutations(range(4), 2):
        weight = proposal_V[first] * proposal_V[second] / (1 - proposal_V[first])
        draft = Draft(torch.tensor([0, first, second]), torch.tensor([-1, 0, 0]), proposal_V.expand(3, -1))
        for u_first, u_second, u_bonus in itertools.product(grid.tolist(), repeat=3):
            uniforms_N2 = torch.tensor([[0.0, u_bonus], [u_first, 0.0], [u_second, 0.0]])
            verdict = reject(draft, target_V.expand(3, -1), uniforms_N2)
            token = draft.tokens_N[verdict.path[1]] if len(verdict.path) > 1 else verdict.bonus
            law_V[token] += weight / grid.numel() ** 3
    # The grid's own error: it places each of three thresholds with an error of at most 1/16.
    torch.testing.assert_close(law_V, target_V, atol=0.05, rtol=0)
    assert law_V[3] == 0


def test_bonus_is_never_an_impossible_token() -> None:
    draft = Draft(torch.tensor([0]), torch.tensor([-1]), torch.zeros(1, 4))
    target_NV = torch.tensor([[0.0, 0.5, 0.5, 0.0]]).double()
    for u in (0.0, 0.5, 1 - 1e-16):
        assert reject(draft, target_NV, torch.tensor([[0.0, u]]).double()).bonus in (1, 2)
