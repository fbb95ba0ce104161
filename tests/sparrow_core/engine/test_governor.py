"""The governor's choices, from costs and acceptance alone."""

import pytest

from sparrow_core.config import DraftConfig
from sparrow_core.engine.governor import CANDIDATES, LOOK_AGAIN_ROUNDS, NO_DRAFT, Costs, Governor


def costs(*, row_s: float, slot_row_s: float, level_s: float = 0.1) -> Costs:
    """A machine whose pass takes 1 s, and for each further row `row_s` plus `slot_row_s` per slot that it reads."""
    rows = (1, 8, 64)
    return Costs(
        pass_s={n: 1 + row_s * (n - 1) for n in rows},
        slot_s={n: 1e-4 + slot_row_s * (n - 1) for n in rows},
        draft_s={shape: 0.0 if shape == NO_DRAFT else level_s * shape.depth for shape in CANDIDATES},
    )


def usual_choice(governor: Governor, contexts: list[int], acceptance: float, rounds: int = 400) -> DraftConfig:
    """The most frequent choice after rounds that accept each further token at this rate (a tree's more often)."""
    chosen: list[DraftConfig] = []
    for _ in range(rounds):
        shape = governor.choose(contexts)
        chosen.append(shape)
        depth = 0 if shape == NO_DRAFT else shape.depth
        rate = acceptance if shape.width == 1 else min(1.0, 1.2 * acceptance)
        expected = sum(rate**d for d in range(depth + 1))
        for _ in contexts:
            governor.learn_tokens(shape, round(expected))
    return max(set(chosen[-LOOK_AGAIN_ROUNDS:]), key=chosen[-LOOK_AGAIN_ROUNDS:].count)


def test_interpolation_and_beyond() -> None:
    table = Costs({1: 1.0, 3: 2.0, 5: 6.0}, {1: 0.0, 2: 0.0}, {NO_DRAFT: 0.0, DraftConfig.chain(3): 0.5})
    assert table.round_s(NO_DRAFT, [0]) == 1.0
    assert table.round_s(NO_DRAFT, [0, 0]) == 1.5
    assert table.round_s(DraftConfig.chain(3), [0]) == 4.0 + 0.5
    assert table.round_s(DraftConfig.chain(3), [0, 0]) == 6.0 + 3 * 2.0 + 1.0


def test_big_trees_where_rows_are_free_and_none_where_they_are_costly() -> None:
    free = Governor(costs(row_s=0.0, slot_row_s=0.0, level_s=0.01))
    assert usual_choice(free, [500], acceptance=0.8).width > 1
    # At 25,000 slots each further row costs more than it gains.
    costly = Governor(costs(row_s=0.0, slot_row_s=1e-4, level_s=0.01))
    assert usual_choice(costly, [25_000], acceptance=0.5) in (NO_DRAFT, DraftConfig.chain(2))
    assert usual_choice(costly, [100], acceptance=0.8).depth > 2


def test_a_drafter_that_is_always_wrong_is_switched_off_and_asked_again() -> None:
    governor = Governor(costs(row_s=0.01, slot_row_s=0.0))
    assert usual_choice(governor, [500], acceptance=0.0) == NO_DRAFT
    asked = [governor.choose([500]) for _ in range(3 * LOOK_AGAIN_ROUNDS)]
    assert 1 <= sum(shape != NO_DRAFT for shape in asked) <= 4


def test_it_comes_back_when_drafts_are_right_again() -> None:
    governor = Governor(costs(row_s=0.01, slot_row_s=0.0))
    assert usual_choice(governor, [500], acceptance=0.0) == NO_DRAFT
    assert usual_choice(governor, [500], acceptance=0.95, rounds=4000) != NO_DRAFT


def test_it_believes_the_clock_more_than_the_costs_of_the_start() -> None:
    """A shape that takes four times its expected time is given up at this length, and chosen again once it is fast."""
    governor = Governor(costs(row_s=0.0, slot_row_s=0.0, level_s=0.01))
    tree = usual_choice(governor, [20_000], acceptance=0.8)
    assert tree.width > 1

    def play(slow: float, rounds: int) -> DraftConfig:
        for _ in range(rounds):
            shape = governor.choose([20_000])
            factor = slow if shape.width > 1 else 1.0
            governor.learn_time(shape, [20_000], factor * governor.costs.round_s(shape, [20_000]))
        return shape

    assert play(4.0, LOOK_AGAIN_ROUNDS - 1).width == 1
    assert governor.choose([500]).width > 1
    assert play(1.0, 40 * LOOK_AGAIN_ROUNDS - 2).width > 1


def two_shapes(cost_of_draft: float) -> Governor:
    """No draft at 1 s a round, or a chain of 2 at `cost_of_draft`, whatever the context."""
    free = dict.fromkeys((1, 8), 0.0)
    draft_s = {NO_DRAFT: 0.0, CHAIN: cost_of_draft - 1}
    return Governor(Costs(dict.fromkeys((1, 8), 1.0), free, draft_s), (NO_DRAFT, CHAIN))


CHAIN = DraftConfig.chain(2)


def rounds_until_left(governor: Governor, num_tokens: int, at_most: int) -> int:
    """Rounds of so few tokens until a chain no longer pays."""
    for rounds in range(at_most):
        # Asked twice, since one choice in LOOK_AGAIN_ROUNDS is a second look.
        if governor.choose([100]) == governor.choose([100]) == NO_DRAFT:
            return rounds
        governor.learn_tokens(CHAIN, num_tokens)
    return at_most


def test_it_hopes_for_a_good_drafter_before_it_has_seen_one() -> None:
    """A chain of 2 of which 85 % are accepted brings 1 + 0.85 + 0.72 = 2.57 tokens a round."""
    assert two_shapes(2.5).choose([100]) == CHAIN
    assert two_shapes(2.65).choose([100]) == NO_DRAFT


def test_a_tree_is_hoped_to_find_half_of_what_a_chain_misses() -> None:
    """At 92.5 % four levels bring 4.30 tokens, against the 3.71 of a chain of 4 at 85 %."""
    chain, tree = DraftConfig.chain(4), DraftConfig(4, 4, 12)
    for cost, expected in ((1.1, tree), (1.2, chain)):
        free = dict.fromkeys((1, 16), 0.0)
        governor = Governor(Costs(dict.fromkeys((1, 16), 1.0), free, {chain: 0.0, tree: cost - 1}), (chain, tree))
        assert governor.choose([100]) == expected


def test_hope_is_worth_three_rounds() -> None:
    """A chain that pays from 1.5 tokens is left after n = 7 rounds of one token: (3 * 2.57 + n) / (3 + n) < 1.5."""
    assert rounds_until_left(two_shapes(1.5), num_tokens=1, at_most=100) == 7


def test_what_was_long_ago_is_forgotten() -> None:
    """After any number of rounds of three tokens, one of one token moves the mean by 1 / 200 of the difference:
    1 + 2 * 0.995**n < 1.5 at n = 277."""
    governor = two_shapes(1.5)
    for _ in range(3000):
        governor.learn_tokens(CHAIN, 3)
    assert rounds_until_left(governor, num_tokens=1, at_most=1000) == pytest.approx(277, abs=2)


def test_what_is_free_alone_may_be_dear_in_company() -> None:
    """Eight rows take the time of one, 64 rows eight times as long: drafts pay for one sequence, not for eight."""
    rows = {1: 1.0, 8: 1.0, 64: 8.0}
    governor = Governor(Costs(rows, dict.fromkeys(rows, 0.0), dict.fromkeys(CANDIDATES, 0.0)))
    assert governor.choose([300]) != NO_DRAFT
    assert governor.choose([300] * 8) == NO_DRAFT


def test_every_sequence_is_drafted_for() -> None:
    """A draft takes 1 s of each sequence: of four together 4 s, which 2.57 tokens do not pay."""
    rows = {1: 1.0, 64: 1.0}
    governor = Governor(Costs(rows, dict.fromkeys(rows, 0.0), {NO_DRAFT: 0.0, CHAIN: 1.0}), (NO_DRAFT, CHAIN))
    assert governor.choose([300]) == CHAIN
    assert governor.choose([300] * 4) == NO_DRAFT


def test_it_looks_again_once_in_a_while_and_not_more_often() -> None:
    governor = Governor(costs(row_s=0.01, slot_row_s=0.0))
    for shape in CANDIDATES:
        for _ in range(2000):
            governor.learn_tokens(shape, 1)
    asked = [governor.choose([500]) != NO_DRAFT for _ in range(4 * LOOK_AGAIN_ROUNDS)]
    assert [index + 1 for index, is_second_look in enumerate(asked) if is_second_look] == [64, 128, 192, 256]


def test_the_second_look_is_at_what_the_costs_of_the_start_promise() -> None:
    """The machine was busy when trees were drafted: they took ten times as long, all chains twice as long."""
    governor = Governor(costs(row_s=0.0, slot_row_s=0.0, level_s=0.01))
    promised = governor.choose([500])
    assert promised.width > 1
    for shape in CANDIDATES:
        slow = 10.0 if shape.width > 1 else 2.0
        for _ in range(100):
            governor.learn_time(shape, [500], slow * governor.costs.round_s(shape, [500]))
    asked = [governor.choose([500]) for _ in range(LOOK_AGAIN_ROUNDS - 1)]
    assert all(shape.width == 1 for shape in asked[:-1]) and asked[-1] == promised
