"""Growing drafts: against trees drawn by hand, in company, and where the drafter is broken.

That a draft never changes a caption is tested with its verification.
"""

import math

import pytest
import torch

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafter import DraftContext
from sparrow_core.decoding.sampling import choose
from sparrow_core.drafters.tree_growth import Level, grow_drafts
from sparrow_core.types import Draft

NAN_V = torch.full((5,), torch.nan)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(1.0, rule="rejection")])
@pytest.mark.parametrize("shape", [DraftConfig.chain(3), DraftConfig(depth=3, width=2, total=7)])
@pytest.mark.parametrize("broken_from", [0, 1])
def test_a_draft_ends_where_the_logits_are_nan(sampling: Sampling, shape: DraftConfig, broken_from: int) -> None:
    root_logits_V = NAN_V if broken_from == 0 else torch.randn(5)
    draft_context = DraftContext(root=2, position=0, sampling=sampling, round_index=0)

    def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
        return {number: NAN_V.expand(len(level.nodes), -1) for number, level in levels.items()}

    (draft,) = grow_drafts([(root_logits_V, draft_context, shape)], expand)
    assert draft.tokens_N.tolist()[0] == 2
    assert all(parent <= 0 for parent in draft.parents_N.tolist()), "only the root has children"
    assert (len(draft) > 1) == (broken_from == 1)


ROOT, VOCABULARY = 9, 10
Path = tuple[int, ...]


def logits_after(path: Path, world: dict[Path, dict[int, float]]) -> torch.Tensor:
    """Log-probabilities of the tokens that the world lets follow a path of tokens below the root; -inf for others."""
    logits_V = torch.full((VOCABULARY,), float("-inf"))
    for token, probability in world[path].items():
        logits_V[token] = math.log(probability)
    return logits_V


def grow_in(
    world: dict[Path, dict[int, float]], shape: DraftConfig, sampling: Sampling
) -> tuple[Draft, list[tuple[list[int], list[int], list[int]]]]:
    """The draft that grows in a world of known probabilities, and the nodes, tokens and parents of each level read."""
    path_of: dict[int, Path] = {0: ()}
    asked: list[tuple[list[int], list[int], list[int]]] = []

    def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
        (level,) = levels.values()
        asked.append((level.nodes, level.tokens, level.parents))
        for node, token, parent in zip(level.nodes, level.tokens, level.parents, strict=True):
            path_of[node] = (*path_of[parent], token)
        return {0: torch.stack([logits_after(path_of[node], world) for node in level.nodes])}

    (draft,) = grow_drafts([(logits_after((), world), DraftContext(ROOT, 1, 0, sampling), shape)], expand)
    return draft, asked


#  Probabilities along the edges; nodes by number in the order in which they are proposed; cumulative below.
#
#                     0 (token 9)
#            .50 /              \ .40
#          1 (token 0)          2 (token 1)            level 1: both are read, 1 first
#            .500                 .400
#      .50 /    \ .40        .90 /    \ .05
#     3 (2)     4 (3)       5 (4)     6 (5)            level 2: 5 and 3 are read, in this order
#     .250      .200        .360      .020
#  .60 / \ .30           .50 / \ .30
#  9 (6)  10 (7)         7 (6)  8 (7)                  level 3: not read
#  .150   .075           .180   .108
HAND_DRAWN: dict[Path, dict[int, float]] = {
    (): {0: 0.50, 1: 0.40, 8: 0.10},
    (0,): {2: 0.50, 3: 0.40, 8: 0.10},
    (1,): {4: 0.90, 5: 0.05, 8: 0.05},
    (1, 4): {6: 0.50, 7: 0.30, 8: 0.20},
    (0, 2): {6: 0.60, 7: 0.30, 8: 0.10},
}


def test_the_most_confident_nodes_are_read_and_kept() -> None:
    draft, read = grow_in(HAND_DRAWN, DraftConfig(depth=3, width=2, total=8), Sampling())
    assert read == [([1, 2], [0, 1], [0, 0]), ([5, 3], [4, 2], [2, 1])]
    # Of eleven nodes eight stay, in the order of their proposal: without 6 (.020), 10 (.075) and 8 (.108).
    assert draft.tokens_N.tolist() == [ROOT, 0, 1, 2, 3, 4, 6, 6]
    assert draft.parents_N.tolist() == [-1, 0, 0, 1, 1, 2, 5, 3]
    assert draft.proposal_NV is None


@pytest.mark.parametrize(
    ("total", "tokens", "parents"),
    [(4, [ROOT, 0, 1, 4], [-1, 0, 0, 2]), (6, [ROOT, 0, 1, 2, 3, 4], [-1, 0, 0, 1, 1, 2])],
)
def test_a_smaller_draft_is_the_most_confident_part_of_a_larger_one(
    total: int, tokens: list[int], parents: list[int]
) -> None:
    draft, _ = grow_in(HAND_DRAWN, DraftConfig(depth=3, width=2, total=total), Sampling())
    assert (draft.tokens_N.tolist(), draft.parents_N.tolist()) == (tokens, parents)


def test_a_chain_under_noise_is_what_the_target_would_choose() -> None:
    """The drafter's logits are perturbed as the target's will be at the same position, one further at each depth."""
    generator, sampling = torch.Generator().manual_seed(0), Sampling(1.0, seed=5)
    logits_LV = torch.randn(4, VOCABULARY, generator=generator) / 4  # nearly flat, so that noise decides
    level_logits = iter(logits_LV[1:])

    def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
        return {0: next(level_logits)[None]}

    draft_context = DraftContext(ROOT, 7, 0, sampling)
    (draft,) = grow_drafts([(logits_LV[0], draft_context, DraftConfig.chain(4))], expand)
    assert draft.tokens_N.tolist() == [ROOT, *choose(logits_LV, sampling, torch.arange(7, 11)).tolist()]
    assert draft.tokens_N.tolist()[1:] != logits_LV.argmax(-1).tolist()


#  Every node is given as many tokens as it draws, so that only their order is left to chance. Total 13 and depth 3 make
#  levels of four nodes.
#
#                            0
#          .60 /       .20 /   \ .15    \ .05
#           (0)        (1)      (2)      (3)             four children of the root; the likelier two are read
#      .55 /  \ .45  .90 / \ .10
#       (4)  (5)      (4)  (5)                           two children each: .33 .27 .18 .02; the likelier two are read
#      .5/ \.5 .5/ \.5
#      (6) (7) (6) (7)                                   two children each
DRAWN: dict[Path, dict[int, float]] = {
    (): {0: 0.60, 1: 0.20, 2: 0.15, 3: 0.05},
    (0,): {4: 0.55, 5: 0.45},
    (1,): {4: 0.90, 5: 0.10},
    (0, 4): {6: 0.50, 7: 0.50},
    (0, 5): {6: 0.50, 7: 0.50},
}
DRAWN_PATHS = {(), (0,), (1,), (2,), (3,), (0, 4), (0, 5), (1, 4), (1, 5)} | {
    (0, parent, child) for parent in (4, 5) for child in (6, 7)
}


@pytest.mark.parametrize("seed", range(5))
def test_drawn_siblings_are_as_many_as_the_levels_above_say(seed: int) -> None:
    draft, read = grow_in(DRAWN, DraftConfig(depth=3, width=9, total=13), Sampling(1.0, seed=seed, rule="rejection"))
    tokens, parents = draft.tokens_N.tolist(), draft.parents_N.tolist()
    path_of: dict[int, Path] = {0: ()}
    for node in range(1, len(tokens)):
        path_of[node] = (*path_of[parents[node]], tokens[node])
    assert set(path_of.values()) == DRAWN_PATHS and len(tokens) == 13
    assert [len(nodes) for nodes, _, _ in read] == [2, 2]
    assert all(nodes == sorted(nodes) for nodes, _, _ in read)
    assert draft.proposal_NV is not None
    for node, path in path_of.items():
        expected_V = logits_after(path, DRAWN).exp() if path in DRAWN else torch.zeros(VOCABULARY)
        torch.testing.assert_close(draft.proposal_NV[node], expected_V, check_dtype=False)


def test_siblings_stand_in_the_order_in_which_they_were_drawn() -> None:
    """The root's first child is a draw from the drafter's distribution: of 400, 240 are token 0 and 80 token 1. Both
    tolerances are five standard deviations."""
    first = [
        int(grow_in(DRAWN, DraftConfig(1, 9, 5), Sampling(1.0, seed=seed, rule="rejection"))[0].tokens_N[1])
        for seed in range(400)
    ]
    assert abs(first.count(0) - 240) < 49 and abs(first.count(1) - 80) < 40


def test_drafts_that_grow_together_are_those_that_grow_alone() -> None:
    """Of different depths and sampling: each takes its own logits, and the shorter one's end leaves the other alone."""
    generator = torch.Generator().manual_seed(1)
    table_VV = torch.randn(VOCABULARY, VOCABULARY, generator=generator)  # what follows a token depends on it alone

    def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
        return {number: table_VV[torch.tensor(level.tokens)] for number, level in levels.items()}

    requests = [
        (table_VV[root], DraftContext(root, 3, 0, sampling), shape)
        for root, sampling, shape in (
            (1, Sampling(), DraftConfig.chain(2)),
            (2, Sampling(), DraftConfig(4, 3, 12)),
            (3, Sampling(0.9, seed=4, rule="rejection"), DraftConfig(3, 2, 10)),
            (4, Sampling(0.9, seed=4), DraftConfig(4, 2, 9)),
        )
    ]
    together = grow_drafts(requests, expand)
    for request, draft in zip(requests, together, strict=True):
        (alone,) = grow_drafts([request], expand)
        assert draft.tokens_N.tolist() == alone.tokens_N.tolist()
        assert draft.parents_N.tolist() == alone.parents_N.tolist()
