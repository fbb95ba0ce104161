"""Rows of the speed table: medians over repeats, sums over windows, and ratios to our autoregressive loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median

from sparrow_core.measure import speedup
from sparrow_core.measure.names import AUTOREGRESSIVE, LIBRARY
from sparrow_core.measure.speedup import Decoding


@dataclass(frozen=True)
class Run:
    """One mode on one window once. `rounds` is the number of target calls after prefill (0: unknown)."""

    token_ids: tuple[int, ...]
    vision_s: float
    prefill_s: float
    decode_s: float
    rounds: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0


@dataclass(frozen=True)
class SpeedRow:
    """One mode at one visual length, batch 1. Times are wall seconds per window; `decode_s` runs from the end of the
    target's prefill to the last token, the drafter's prefill included.

    `tau`, `round_cost` and the speedups are those of `speedup`: over our autoregressive loop on the same windows, and
    over transformers' `generate` in `speedup_over_generate`. `end_to_end_bound` is the end-to-end speedup if decoding
    took no time. Figures that need rounds are None for the library.
    """

    method: str
    visual_tokens: int
    batch: int
    temperature: float
    windows: int
    tokens: int
    tau: float | None
    round_cost: float | None
    ar_step_ms: float
    draft_ms_per_round: float | None
    verify_ms_per_round: float | None
    vision_s: float
    prefill_s: float
    decode_s: float
    tokens_per_s: float
    decode_speedup: float
    speedup_over_generate: float | None
    end_to_end_speedup: float
    end_to_end_bound: float
    equal_tokens: bool


@dataclass(frozen=True)
class Totals:
    """Sums over windows of one mode's tokens, rounds and wall seconds."""

    windows: int
    tokens: int
    rounds: float
    vision_s: float
    prefill_s: float
    decode_s: float
    draft_s: float
    verify_s: float

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.tokens - self.windows, self.rounds, self.decode_s, self.vision_s + self.prefill_s)


_TIMES = ("vision_s", "prefill_s", "decode_s", "draft_s", "verify_s")


def mode_totals(windows: Sequence[Sequence[Run]]) -> Totals:
    """The repeats of one mode on each window -> medians over repeats, summed over windows."""
    medians = [_median_run(repeats) for repeats in windows]
    return Totals(**{field.name: sum(getattr(each, field.name) for each in medians) for field in fields(Totals)})


def _median_run(repeats: Sequence[Run]) -> Totals:
    """Rounds are a median too: the governor may choose differently in each repeat."""
    times = {name: median(getattr(run, name) for run in repeats) for name in _TIMES}
    return Totals(1, len(repeats[0].token_ids), median(run.rounds for run in repeats), **times)


def speed_row(
    method: str, visual_tokens: int, temperature: float, totals: Mapping[str, Totals], equal_tokens: bool
) -> SpeedRow:
    """The row of one mode; `totals` holds all modes, the autoregressive loop among them.

    Under rejection sampling captions differ, so that a baseline counts for as many tokens as the mode wrote.
    """
    total, loop_total, library = totals[method], totals[AUTOREGRESSIVE], totals.get(LIBRARY)
    run, windows, rounds = total.decoding, total.windows, total.rounds or None
    loop = loop_total.decoding.scaled_to(run.tokens)
    generate = library.decoding.scaled_to(run.tokens) if library else None
    decode_speedup = speedup.decode_speedup(run, loop).value
    tau = speedup.tau(run).value if rounds else None
    return SpeedRow(
        method=method,
        visual_tokens=visual_tokens,
        batch=1,
        temperature=temperature,
        windows=windows,
        tokens=total.tokens,
        tau=tau,
        round_cost=None if tau is None else speedup.round_cost(tau, decode_speedup),
        ar_step_ms=1000 * (loop_total.decode_s / loop_total.rounds),
        draft_ms_per_round=1000 * total.draft_s / rounds if rounds else None,
        verify_ms_per_round=1000 * total.verify_s / rounds if rounds else None,
        vision_s=total.vision_s / windows,
        prefill_s=total.prefill_s / windows,
        decode_s=total.decode_s / windows,
        tokens_per_s=run.tokens_per_s,
        decode_speedup=decode_speedup,
        speedup_over_generate=speedup.decode_speedup(run, generate).value if generate else None,
        end_to_end_speedup=speedup.end_to_end_speedup(run, loop).value,
        end_to_end_bound=speedup.end_to_end_bound(loop_total.decoding).value,
        equal_tokens=equal_tokens,
    )
