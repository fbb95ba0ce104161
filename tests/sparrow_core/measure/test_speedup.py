"""Definitions of tau, round cost and speedups against hand counts."""

from sparrow_core.measure.speedup import (
    Decoding,
    decode_speedup,
    end_to_end_bound,
    end_to_end_speedup,
    round_cost,
    tau,
)

LOOP = Decoding(tokens=60, rounds=60, decode_s=12.0, before_s=4.0)
RUN = Decoding(tokens=60, rounds=20, decode_s=5.0, before_s=3.0)


def test_figures_are_ratios_of_counts_and_seconds() -> None:
    assert tau(RUN).value == 60 / 20
    assert decode_speedup(RUN, LOOP).value == 12 / 5
    assert end_to_end_speedup(RUN, LOOP).value == 16 / 8
    assert end_to_end_bound(LOOP).value == 16 / 4


def test_round_cost_counts_autoregressive_steps() -> None:
    round_s, step_s = 5.0 / 20, 12.0 / 60
    assert round_cost(tau(RUN).value, decode_speedup(RUN, LOOP).value) == round_s / step_s


def test_a_baseline_counts_for_as_many_tokens() -> None:
    assert LOOP.scaled_to(60) == LOOP
    assert LOOP.scaled_to(30) == Decoding(tokens=30, rounds=30, decode_s=6.0, before_s=4.0)
    assert LOOP.scaled_to(30).tokens_per_s == LOOP.tokens_per_s
