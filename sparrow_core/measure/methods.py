"""Drafting methods side by side: tau and decode speedup of each on the same windows, after one prefill.

Owns what is measured of a window, which windows count, and the rows of the paper's tables. It knows no method by name
and does not know where windows come from.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.measure.acceptance import bootstrap_interval, depth_acceptance
from sparrow_core.types import Completion, Request, SpecStats, Timings

ALONE = "autoregressive"
LONGEST_PERIOD, REPEATS = 24, 3


class MethodKey(NamedTuple):
    """Method and temperature."""

    method: str
    temperature: float


@dataclass(frozen=True)
class Method:
    """A method at a temperature, in one shape of drafts. The name ALONE and no drafter stand for our one-row loop,
    which may be among the methods of a window several times."""

    method: str
    drafter: Drafter[Any] | None
    temperature: float
    shape: DraftConfig | None = None


@dataclass(frozen=True)
class MethodRun:
    """One window decoded by one method. `timings.decode_s` runs from the end of the target's prefill to the last token,
    the drafter's own prefill included; `autoregressive_s` is the median of our one-row loop on the same window, in the
    same run.
    `usable` is False for captions that were cut off or end in a loop, which flatter drafters."""

    method: str
    visual_tokens: int
    temperature: float
    window: str
    stats: SpecStats
    timings: Timings
    autoregressive_s: float
    equal: bool
    usable: bool
    fact_score: float

    @property
    def key(self) -> MethodKey:
        """In which method the window was decoded."""
        return MethodKey(self.method, self.temperature)


@dataclass(frozen=True)
class MethodRow:
    """A method at one visual length (nominal) and temperature, over `windows` usable windows; intervals are bootstrap
    95 % over windows.

    `tau` pools rounds; `tau_ratio` is the baseline's rounds over those of this method on the same windows, which is the
    ratio of their taus, since they bring the same tokens. `decode_speedup` is the loop's decoding time over that of
    this method, `speedup_ratio` that over the baseline's on the same windows, each beside the loops of its own run
    (both ratios are None without a baseline); `speedup_after_drafter_prefill` leaves the drafter's prefill out, and
    `end_to_end_speedup` counts vision and the target's prefill too. `round_cost` is what a round takes in steps of the
    loop, its part of the drafter's prefill included. `unequal` counts captions that differ from the loop's.
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


def run_methods(engine: Engine, request: Request, methods: Sequence[Method], seed: int) -> list[Completion]:
    """Decode one window in all methods after one prefill -> completions in the order of `methods`.

    `seed` seeds the sampling, and shuffles the order in which they run.
    """
    order = np.random.default_rng(seed).permutation(len(methods)).tolist()
    modes = [
        DecodeMode(methods[n].drafter, methods[n].shape, Sampling(methods[n].temperature, seed=seed)) for n in order
    ]
    tickets = dict(zip(order, engine.submit_modes(request, modes), strict=True))
    return [tickets[number].result() for number in range(len(methods))]


def method_runs(
    methods: Sequence[Method], completions: Sequence[Completion], visual_tokens: int, fact_score: Callable[[str], float]
) -> list[MethodRun]:
    """What `run_methods` found. There is a method ALONE for every temperature."""
    alone: dict[float, list[Completion]] = defaultdict(list)
    for method, found in zip(methods, completions, strict=True):
        if method.method == ALONE:
            alone[method.temperature].append(found)
    said = {temperature: loops[0] for temperature, loops in alone.items()}
    autoregressive_s = {t: median(loop.timings.decode_s for loop in loops) for t, loops in alone.items()}
    usable = {t: one.finish_reason == "stop" and not ends_in_a_loop(one.token_ids) for t, one in said.items()}
    facts = {t: fact_score(one.text) for t, one in said.items()}
    return [
        MethodRun(
            method=method.method,
            visual_tokens=visual_tokens,
            temperature=method.temperature,
            window=found.request_id,
            stats=found.stats,
            timings=found.timings,
            autoregressive_s=autoregressive_s[method.temperature],
            equal=found.token_ids == said[method.temperature].token_ids,
            usable=usable[method.temperature],
            fact_score=facts[method.temperature],
        )
        for method, found in zip(methods, completions, strict=True)
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
        if any(run.usable for run in group)
    ]


def _row(key: tuple[str, int, float], group: Sequence[MethodRun], baseline: Sequence[MethodRun]) -> MethodRow:
    # A bootstrap depends on the order: always the same, however the measurement was stopped and gone on with.
    runs = sorted((run for run in group if run.usable), key=lambda run: run.window)
    of_baseline = {run.window: run for run in baseline}
    shared = [run for run in runs if run.window in of_baseline]
    tau = _ratio(runs, _tokens, _rounds)
    speedup = _ratio(runs, _autoregressive_s, _decode_s)
    tau_ratio = _ratio(shared, lambda run: _rounds(of_baseline[run.window]), _rounds)
    speedup_ratio = _ratio(
        shared, lambda run: run.autoregressive_s * _share_of_autoregressive(of_baseline[run.window]), _decode_s
    )
    after_prefill = _ratio(runs, _autoregressive_s, lambda run: _decode_s(run) - run.timings.drafter_prefill_s)
    end_to_end = _ratio(
        runs, lambda run: run.autoregressive_s + _before_s(run), lambda run: _decode_s(run) + _before_s(run)
    )
    method, visual_tokens, temperature = key
    return MethodRow(
        method=method,
        visual_tokens=visual_tokens,
        temperature=temperature,
        **tau.fields("tau"),
        **tau_ratio.fields("tau_ratio"),
        depth_acceptance=depth_acceptance(run.stats.accepted_per_round for run in runs),
        round_cost=tau.value / speedup.value,
        **speedup.fields("decode_speedup"),
        **speedup_ratio.fields("speedup_ratio"),
        speedup_after_drafter_prefill=after_prefill.value,
        end_to_end_speedup=end_to_end.value,
        windows=len(runs),
        left_out=len(group) - len(runs),
        unequal=sum(not run.equal for run in runs),
        fact_score=float(np.mean([run.fact_score for run in runs])),
    )


class _Ratio(NamedTuple):
    """A sum over a sum, and its interval; None where nothing was measured."""

    value: Any = None
    low: Any = None
    high: Any = None

    def fields(self, name: str) -> dict[str, Any]:
        """As those of a row."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def _ratio(
    runs: Sequence[MethodRun], above: Callable[[MethodRun], float], below: Callable[[MethodRun], float]
) -> _Ratio:
    if not runs:
        return _Ratio()
    numerators, denominators = (np.array([of(run) for run in runs], dtype=float) for of in (above, below))
    return _Ratio(numerators.sum() / denominators.sum(), *bootstrap_interval(numerators, denominators))


_tokens = attrgetter("stats.tokens_from_rounds")
_rounds = attrgetter("stats.rounds")
_autoregressive_s = attrgetter("autoregressive_s")
_decode_s = attrgetter("timings.decode_s")


def _share_of_autoregressive(run: MethodRun) -> float:
    return run.timings.decode_s / run.autoregressive_s


def _before_s(run: MethodRun) -> float:
    return run.timings.vision_s + run.timings.prefill_s
