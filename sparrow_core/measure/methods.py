"""Drafting methods side by side: tau and decode speedup of each on the same windows, after one prefill.

Owns what is measured of a window, which windows count, and the rows of the paper's tables. It knows no method by name
and does not know where windows come from.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import Arm
from sparrow_core.measure.acceptance import bootstrap_interval
from sparrow_core.types import Completion, Request

ALONE = "autoregressive"
LONGEST_PERIOD, REPEATS = 24, 3


@dataclass(frozen=True)
class MethodRun:
    """One method on one window. `decode_s` runs from the end of the target's prefill to the last token, the drafter's
    own prefill included; `alone_s` is that of our one-row loop on the same window, in the same run. `usable` is False
    for captions that were cut off or end in a loop, which flatter drafters."""

    method: str
    visual_tokens: int
    temperature: float
    window: str
    rounds: int
    tokens_from_rounds: int
    decode_s: float
    alone_s: float
    equal: bool
    usable: bool
    fact_score: float


@dataclass(frozen=True)
class MethodRow:
    """A method at one visual length (nominal) and temperature, over `windows` usable windows. `tau` pools rounds; its
    bounds are those of the bootstrap 95 % interval. `decode_speedup` is measured wall time over that of our loop, and
    `round_cost` what a round takes in steps of the loop. `unequal` counts captions that differ from the loop's."""

    method: str
    visual_tokens: int
    temperature: float
    tau: float
    tau_low: float
    tau_high: float
    decode_speedup: float
    round_cost: float
    windows: int
    left_out: int
    unequal: int
    fact_score: float


def run_methods(
    engine: Engine,
    request: Request,
    drafters: Mapping[float, Mapping[str, Drafter[Any]]],
    shape: DraftConfig,
    turn: int,
) -> dict[float, dict[str, Completion]]:
    """Decode one window from one prefill: at each temperature alone and with every drafter that is given for it.

    `turn` seeds the sampling, and rotates the order, so that no method always comes first.
    """
    arms = {
        (temperature, name): Arm(drafter, shape if drafter else None, Sampling(temperature, seed=turn))
        for temperature, named in drafters.items()
        for name, drafter in [(ALONE, None), *named.items()]
    }
    first = turn % len(arms)
    order = [*list(arms)[first:], *list(arms)[:first]]
    tickets = engine.submit_arms(request, [arms[key] for key in order])
    found = {key: ticket.result() for key, ticket in zip(order, tickets, strict=True)}
    return {
        temperature: {name: found[temperature, name] for t, name in arms if t == temperature}
        for temperature in drafters
    }


def method_runs(
    completions: Mapping[str, Completion], visual_tokens: int, temperature: float, fact_score: float
) -> list[MethodRun]:
    """What `run_methods` found, by method."""
    alone = completions[ALONE]
    usable = alone.finish_reason == "stop" and not ends_in_a_loop(alone.token_ids)
    return [
        MethodRun(
            method=name,
            visual_tokens=visual_tokens,
            temperature=temperature,
            window=completion.request_id,
            rounds=completion.stats.rounds,
            tokens_from_rounds=completion.stats.tokens_from_rounds,
            decode_s=completion.timings.decode_s,
            alone_s=alone.timings.decode_s,
            equal=completion.token_ids == alone.token_ids,
            usable=usable,
            fact_score=fact_score,
        )
        for name, completion in completions.items()
    ]


def ends_in_a_loop(token_ids: Sequence[int]) -> bool:
    """Whether a text ends in the same few tokens, three times over."""
    body = list(token_ids[:-1])  # the last one stops it
    return any(
        len(body) >= REPEATS * period and body[-period:] * REPEATS == body[-REPEATS * period :]
        for period in range(1, LONGEST_PERIOD + 1)
    )


def method_rows(runs: Sequence[MethodRun]) -> list[MethodRow]:
    """One row for each method, length and temperature with a usable window, in the order in which they first come."""
    groups: dict[tuple[str, int, float], list[MethodRun]] = defaultdict(list)
    for run in runs:
        groups[run.method, run.visual_tokens, run.temperature].append(run)
    return [_row(key, group) for key, group in groups.items() if any(run.usable for run in group)]


def _row(key: tuple[str, int, float], group: Sequence[MethodRun]) -> MethodRow:
    usable = [run for run in group if run.usable]
    tokens = np.array([run.tokens_from_rounds for run in usable])
    rounds = np.array([run.rounds for run in usable])
    low, high = bootstrap_interval(tokens, rounds)
    tau = float(tokens.sum() / rounds.sum())
    speedup = sum(run.alone_s for run in usable) / sum(run.decode_s for run in usable)
    return MethodRow(
        *key,
        tau=tau,
        tau_low=low,
        tau_high=high,
        decode_speedup=speedup,
        round_cost=tau / speedup,
        windows=len(usable),
        left_out=len(group) - len(usable),
        unequal=sum(not run.equal for run in usable),
        fact_score=float(np.mean([run.fact_score for run in usable])),
    )
