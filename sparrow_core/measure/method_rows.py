"""Rows of the paper's comparison: tau and speedups of each method, and their ratios to a baseline's, paired by window.

Intervals are bootstraps over windows. Knows no method by name but the autoregressive loop.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from sparrow_core.measure import speedup
from sparrow_core.measure.acceptance import bootstrap_interval, depth_acceptance
from sparrow_core.measure.methods import MethodRun
from sparrow_core.measure.names import AUTOREGRESSIVE
from sparrow_core.measure.speedup import Ratio


@dataclass(frozen=True)
class MethodRow:
    """A method at one visual length (nominal) and temperature, over `windows` usable windows; intervals are bootstrap
    95 % over windows. `left_out` windows are not usable.

    `tau`, `decode_speedup`, `end_to_end_speedup` and `round_cost` are those of `speedup`, the drafter's prefill
    charged to the method; `speedup_after_drafter_prefill` leaves it out.

    `tau_ratio` and `speedup_ratio` compare the method with the baseline on the windows that both have, and are None
    without such windows. Both write the same tokens, so that `tau_ratio` is the baseline's rounds over the method's.
    `speedup_ratio` is the ratio of their decoding times, each taken relative to the autoregressive loop of its own run,
    as the machine's speed may differ between runs. `unequal` counts captions that differ from the loop's.
    """

    method: str
    visual_tokens: int
    temperature: float
    tau: float
    tau_low: float
    tau_high: float
    tau_ratio: float | None
    tau_ratio_low: float | None
    tau_ratio_high: float | None
    depth_acceptance: tuple[float, ...]
    round_cost: float
    decode_speedup: float
    decode_speedup_low: float
    decode_speedup_high: float
    speedup_ratio: float | None
    speedup_ratio_low: float | None
    speedup_ratio_high: float | None
    speedup_after_drafter_prefill: float
    end_to_end_speedup: float
    windows: int
    left_out: int
    unequal: int
    fact_score: float


def method_rows(runs: Sequence[MethodRun], baseline: str) -> list[MethodRow]:
    """One row for each method, length and temperature with a usable window, in order of first occurrence; none for the
    autoregressive loop."""
    groups: dict[tuple[str, int, float], list[MethodRun]] = defaultdict(list)
    for run in runs:
        if run.method != AUTOREGRESSIVE:
            groups[run.method, run.visual_tokens, run.temperature].append(run)
    return [
        _row(group, groups[baseline, *key[1:]])
        for key, group in list(groups.items())
        if any(run.usable for run in group)
    ]


def _row(group: Sequence[MethodRun], baseline: Sequence[MethodRun]) -> MethodRow:
    # The bootstrap depends on the order of windows: sorted, it is the same after an interrupted measurement.
    runs = sorted((run for run in group if run.usable), key=lambda run: run.window)
    tau = _estimate([speedup.tau(run.decoding) for run in runs])
    decode_speedup = _estimate([speedup.decode_speedup(run.decoding, run.loop) for run in runs])
    tau_ratio, speedup_ratio = _against(baseline, runs)
    return MethodRow(
        method=runs[0].method,
        visual_tokens=runs[0].visual_tokens,
        temperature=runs[0].temperature,
        **tau.fields("tau"),
        **tau_ratio.fields("tau_ratio"),
        depth_acceptance=depth_acceptance(run.stats.accepted_per_round for run in runs),
        round_cost=speedup.round_cost(tau.value, decode_speedup.value),
        **decode_speedup.fields("decode_speedup"),
        **speedup_ratio.fields("speedup_ratio"),
        speedup_after_drafter_prefill=_estimate([_speedup_after_drafter_prefill(run) for run in runs]).value,
        end_to_end_speedup=_estimate([speedup.end_to_end_speedup(run.decoding, run.loop) for run in runs]).value,
        windows=len(runs),
        left_out=len(group) - len(runs),
        unequal=sum(not run.equal for run in runs),
        fact_score=float(np.mean([run.fact_score for run in runs])),
    )


def _against(baseline: Sequence[MethodRun], runs: Sequence[MethodRun]) -> "tuple[_Estimate, _Estimate]":
    """Ratios of tau and of decode speedup to the baseline's, paired by window."""
    of_window = {run.window: run for run in baseline}
    pairs = [(run, of_window[run.window]) for run in runs if run.window in of_window]
    rounds = [Ratio(other.stats.rounds, run.stats.rounds) for run, other in pairs]
    seconds = [
        Ratio(run.autoregressive_s * (other.timings.decode_s / other.autoregressive_s), run.timings.decode_s)
        for run, other in pairs
    ]
    return _estimate(rounds), _estimate(seconds)


def _speedup_after_drafter_prefill(run: MethodRun) -> Ratio:
    decode_s = run.timings.decode_s - run.timings.drafter_prefill_s
    return speedup.decode_speedup(replace(run.decoding, decode_s=decode_s), run.loop)


class _Estimate(NamedTuple):
    """A ratio of sums over windows and its interval; None without windows."""

    value: Any = None
    low: Any = None
    high: Any = None

    def fields(self, name: str) -> dict[str, Any]:
        """As fields of a row."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def _estimate(windows: Sequence[Ratio]) -> _Estimate:
    if not windows:
        return _Estimate()
    numerators, denominators = (np.array(terms, dtype=float) for terms in zip(*windows, strict=True))
    return _Estimate(numerators.sum() / denominators.sum(), *bootstrap_interval(numerators, denominators))
