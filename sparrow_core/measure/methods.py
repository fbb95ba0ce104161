"""Drafting methods side by side: tau and decode speedup of each on the same windows, after one prefill.

Owns what is measured of a window, which windows count, and the rows of the paper's tables. It knows no method by name
and does not know where windows come from.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import Arm
from sparrow_core.measure.acceptance import bootstrap_interval, depth_acceptance
from sparrow_core.types import Completion, Request, SpecStats, Timings

ALONE = "autoregressive"
LONGEST_PERIOD, REPEATS = 24, 3


class WayKey(NamedTuple):
    """Method, temperature, and whether the governor chooses."""

    method: str
    temperature: float
    governed: bool


@dataclass(frozen=True)
class Way:
    """A method at a temperature, and how much it drafts: in a fixed shape, or as the engine's governor chooses (None).
    The name ALONE and no drafter stand for our one-row loop."""

    method: str
    drafter: Drafter[Any] | None
    temperature: float
    shape: DraftConfig | None = None


@dataclass(frozen=True)
class MethodRun:
    """One way of decoding one window. `timings.decode_s` runs from the end of the target's prefill to the last token,
    the drafter's own prefill included; `alone_s` is that of our one-row loop on the same window, in the same run.
    `usable` is False for captions that were cut off or end in a loop, which flatter drafters."""

    method: str
    governed: bool
    visual_tokens: int
    temperature: float
    window: str
    stats: SpecStats
    timings: Timings
    alone_s: float
    equal: bool
    usable: bool
    fact_score: float

    @property
    def key(self) -> WayKey:
        """In which way the window was decoded."""
        return WayKey(self.method, self.temperature, self.governed)


@dataclass(frozen=True)
class MethodRow:
    """A method at one visual length (nominal) and temperature, over `windows` usable windows; intervals are bootstrap
    95 % over windows.

    In the fixed shape: `tau` pools rounds; `tau_ratio` is the baseline's rounds over those of this method on the same
    windows (None without a baseline), which is the ratio of their taus, since they bring the same tokens;
    `fixed_speedup` is the loop's decoding time over that of this method, `round_cost` what a round takes in steps of
    the loop. As the governor likes (None where that was not measured): `decode_speedup`, the same without the drafter's
    prefill, and `end_to_end_speedup`, which counts vision and the target's prefill too.
    `unequal` counts captions, in either way, that differ from the loop's.
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
    fixed_speedup: float
    fixed_speedup_low: float
    fixed_speedup_high: float
    round_cost: float
    decode_speedup: float | None
    decode_speedup_low: float | None
    decode_speedup_high: float | None
    speedup_after_drafter_prefill: float | None
    end_to_end_speedup: float | None
    governed_tau: float | None
    windows: int
    left_out: int
    unequal: int
    fact_score: float


def run_methods(engine: Engine, request: Request, ways: Sequence[Way], turn: int) -> list[Completion]:
    """Decode one window in all ways after one prefill -> completions in the order of `ways`.

    `turn` seeds the sampling, and shuffles the order in which they run.
    """
    order = np.random.default_rng(turn).permutation(len(ways)).tolist()
    arms = [Arm(ways[n].drafter, ways[n].shape, Sampling(ways[n].temperature, seed=turn)) for n in order]
    tickets = dict(zip(order, engine.submit_arms(request, arms), strict=True))
    return [tickets[number].result() for number in range(len(ways))]


def method_runs(
    ways: Sequence[Way], completions: Sequence[Completion], visual_tokens: int, fact_score: Callable[[str], float]
) -> list[MethodRun]:
    """What `run_methods` found. There is a way ALONE for every temperature."""
    alone = {way.temperature: found for way, found in zip(ways, completions, strict=True) if way.method == ALONE}
    usable = {t: one.finish_reason == "stop" and not ends_in_a_loop(one.token_ids) for t, one in alone.items()}
    facts = {t: fact_score(one.text) for t, one in alone.items()}
    return [
        MethodRun(
            method=way.method,
            governed=way.shape is None,
            visual_tokens=visual_tokens,
            temperature=way.temperature,
            window=found.request_id,
            stats=found.stats,
            timings=found.timings,
            alone_s=alone[way.temperature].timings.decode_s,
            equal=found.token_ids == alone[way.temperature].token_ids,
            usable=usable[way.temperature],
            fact_score=facts[way.temperature],
        )
        for way, found in zip(ways, completions, strict=True)
    ]


def read_run(fields: Mapping[str, Any]) -> MethodRun:
    """The run of which `fields` is `asdict`, also after a detour through JSON."""
    stats = fields["stats"] | {"accepted_per_round": tuple(fields["stats"]["accepted_per_round"])}
    return MethodRun(**{**fields, "stats": SpecStats(**stats), "timings": Timings(**fields["timings"])})


def ends_in_a_loop(token_ids: Sequence[int]) -> bool:
    """Whether a text ends in the same few tokens, three times over."""
    body = list(token_ids[:-1])  # the last one stops it
    return any(
        len(body) >= REPEATS * period and body[-period:] * REPEATS == body[-REPEATS * period :]
        for period in range(1, LONGEST_PERIOD + 1)
    )


def method_rows(runs: Sequence[MethodRun], baseline: str) -> list[MethodRow]:
    """One row for each method, length and temperature with a usable window, in the order in which they first come; the
    loop has none."""
    groups: dict[tuple[str, int, float], list[MethodRun]] = defaultdict(list)
    for run in runs:
        if run.method != ALONE:
            groups[run.method, run.visual_tokens, run.temperature].append(run)
    return [
        _row(key, group, groups[baseline, *key[1:]])
        for key, group in list(groups.items())
        if any(run.usable and not run.governed for run in group)
    ]


def _row(key: tuple[str, int, float], group: Sequence[MethodRun], baseline: Sequence[MethodRun]) -> MethodRow:
    fixed, governed = ([run for run in group if run.usable and run.governed == choice] for choice in (False, True))
    of_baseline = {run.window: float(run.stats.rounds) for run in baseline if not run.governed}
    shared = [run for run in fixed if run.window in of_baseline]
    tau = _ratio(fixed, _tokens, _rounds)
    tau_ratio = _ratio(shared, lambda run: of_baseline[run.window], _rounds)
    fixed_speedup = _ratio(fixed, _alone_s, _decode_s)
    speedup = _ratio(governed, _alone_s, _decode_s)
    after_prefill = _ratio(governed, _alone_s, lambda run: _decode_s(run) - run.timings.drafter_prefill_s)
    end_to_end = _ratio(governed, lambda run: run.alone_s + _before_s(run), lambda run: _decode_s(run) + _before_s(run))
    assert tau.value and tau.low and tau.high, "a row has a usable window"
    assert fixed_speedup.value and fixed_speedup.low and fixed_speedup.high, "a row has a usable window"
    return MethodRow(
        *key,
        tau=tau.value,
        tau_low=tau.low,
        tau_high=tau.high,
        tau_ratio=tau_ratio.value,
        tau_ratio_low=tau_ratio.low,
        tau_ratio_high=tau_ratio.high,
        depth_acceptance=depth_acceptance(accepted for run in fixed for accepted in run.stats.accepted_per_round),
        fixed_speedup=fixed_speedup.value,
        fixed_speedup_low=fixed_speedup.low,
        fixed_speedup_high=fixed_speedup.high,
        round_cost=tau.value / fixed_speedup.value,
        decode_speedup=speedup.value,
        decode_speedup_low=speedup.low,
        decode_speedup_high=speedup.high,
        speedup_after_drafter_prefill=after_prefill.value,
        end_to_end_speedup=end_to_end.value,
        governed_tau=_ratio(governed, _tokens, _rounds).value,
        windows=len(fixed),
        left_out=sum(not run.usable and not run.governed for run in group),
        unequal=sum(run.usable and not run.equal for run in group),
        fact_score=float(np.mean([run.fact_score for run in fixed])),
    )


class _Ratio(NamedTuple):
    """A sum over a sum, and its interval; None where nothing was measured."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def _ratio(
    runs: Sequence[MethodRun], above: Callable[[MethodRun], float], below: Callable[[MethodRun], float]
) -> _Ratio:
    if not runs:
        return _Ratio()
    numerators, denominators = np.array([above(run) for run in runs]), np.array([below(run) for run in runs])
    return _Ratio(numerators.sum() / denominators.sum(), *bootstrap_interval(numerators, denominators))


_tokens = attrgetter("stats.tokens_from_rounds")
_rounds = attrgetter("stats.rounds")
_alone_s = attrgetter("alone_s")
_decode_s = attrgetter("timings.decode_s")


def _before_s(run: MethodRun) -> float:
    return run.timings.vision_s + run.timings.prefill_s
