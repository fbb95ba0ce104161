"""Costs that the governor starts from, on a clock that only passes and drafts move."""

import time

import pytest

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.costs import draft_seconds, measure_costs
from sparrow_core.engine.governor import CANDIDATES, NO_DRAFT
from tests.sparrow_core.stage_clock import StageClock, TimedDrafter

SHAPE = DraftConfig.chain(3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StageClock:
    clock = StageClock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_costs_are_those_of_passes_slots_and_drafts(
    tiny_target: TargetModel, clock: StageClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass takes 1 s, 0.1 s for each row, and 1 ms for each row and slot behind it."""
    forward = tiny_target.forward_by_layer

    def passing(embeddings_RD, positions_AR, sequences, *taps):  # type: ignore[no-untyped-def]
        (rows,) = sequences
        clock.spend(1 + 0.1 * rows.num_rows + 0.001 * rows.num_rows * rows.cache.length)
        return (yield from forward(embeddings_RD, positions_AR, sequences, *taps))

    monkeypatch.setattr(tiny_target, "forward_by_layer", passing)
    costs = measure_costs(tiny_target, TimedDrafter(clock, [9.0], [0.5]))
    assert costs.pass_s == pytest.approx({rows: 1 + 0.1 * rows for rows in costs.pass_s}) and len(costs.pass_s) > 2
    assert costs.slot_s == pytest.approx({rows: 0.001 * rows for rows in costs.slot_s}) and len(costs.slot_s) > 2
    assert costs.draft_s == pytest.approx({shape: 0.0 if shape == NO_DRAFT else 0.5 for shape in CANDIDATES})


def test_a_cost_is_a_median_after_one_call_that_warms_up(tiny_target: TargetModel, clock: StageClock) -> None:
    assert draft_seconds(tiny_target, TimedDrafter(clock, [0.0], [900.0, 1.0, 70.0, 2.0]), SHAPE) == 2.0
