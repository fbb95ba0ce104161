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


@pytest.mark.parametrize("batch", [1, 8])
def test_every_choice_is_a_candidate(batch: int) -> None:
    governor = Governor(costs(row_s=0.02, slot_row_s=1e-6))
    assert all(governor.choose([300] * batch) in CANDIDATES for _ in range(20))
