"""Runs several drafting methods on the same window after one prefill, and records what each took.

Owns the record of a run and the rule for which windows count. Knows no method by name but the autoregressive loop, and
does not know where windows come from.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.measure.names import AUTOREGRESSIVE
from sparrow_core.measure.speedup import Decoding
from sparrow_core.types import Completion, Request, SpecStats, Timings

LOOP_PERIOD, LOOP_REPEATS = 24, 3  # a caption ends in a loop if its last tokens, up to 24, occur 3 times in a row


class MethodKey(NamedTuple):
    """A method and a temperature."""

    method: str
    temperature: float


@dataclass(frozen=True)
class Method:
    """A method at a temperature, drafting in one shape. `AUTOREGRESSIVE` without a drafter is our autoregressive loop,
    which may occur several times among the methods of a window."""

    method: str
    drafter: Drafter[Any] | None
    temperature: float
    shape: DraftConfig | None = None


@dataclass(frozen=True)
class MethodRun:
    """One window decoded by one method.

    `timings.decode_s` runs from the end of the target's prefill to the last token, the drafter's own prefill included.
    `autoregressive_s` is the median decoding time of our autoregressive loop on the same window in the same run.
    `equal` says whether the caption is the loop's. `usable` is False for captions that were cut off or end in a loop:
    they flatter drafters.
    """

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
        return MethodKey(self.method, self.temperature)

    @property
    def decoding(self) -> Decoding:
        """What the method took."""
        stats, timings = self.stats, self.timings
        return Decoding(stats.tokens_from_rounds, stats.rounds, timings.decode_s, timings.vision_s + timings.prefill_s)

    @property
    def loop(self) -> Decoding:
        """What the autoregressive loop took for the same caption, after the same prefill."""
        tokens, before_s = self.stats.tokens_from_rounds, self.timings.vision_s + self.timings.prefill_s
        return Decoding(tokens, tokens, self.autoregressive_s, before_s)


def run_methods(engine: Engine, request: Request, methods: Sequence[Method], seed: int) -> list[Completion]:
    """Decode one window by all methods after one prefill -> completions in the order of `methods`.

    `seed` seeds the sampling and shuffles the order in which the methods run.
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
    """Records of the completions of `run_methods`. `methods` must hold AUTOREGRESSIVE at every temperature."""
    loops: dict[float, list[Completion]] = defaultdict(list)
    for method, completion in zip(methods, completions, strict=True):
        if method.method == AUTOREGRESSIVE:
            loops[method.temperature].append(completion)
    expected = {t: repeats[0] for t, repeats in loops.items()}
    autoregressive_s = {t: median(loop.timings.decode_s for loop in repeats) for t, repeats in loops.items()}
    usable = {t: loop.finish_reason == "stop" and not ends_in_a_loop(loop.token_ids) for t, loop in expected.items()}
    fact_scores = {t: fact_score(loop.text) for t, loop in expected.items()}
    return [
        MethodRun(
            method=method.method,
            visual_tokens=visual_tokens,
            temperature=method.temperature,
            window=completion.request_id,
            stats=completion.stats,
            timings=completion.timings,
            autoregressive_s=autoregressive_s[method.temperature],
            equal=completion.token_ids == expected[method.temperature].token_ids,
            usable=usable[method.temperature],
            fact_score=fact_scores[method.temperature],
        )
        for method, completion in zip(methods, completions, strict=True)
    ]


def read_run(fields: Mapping[str, Any]) -> MethodRun:
    """Rebuild a run from its `asdict`, which may have passed through JSON."""
    stats = fields["stats"] | {"accepted_per_round": tuple(fields["stats"]["accepted_per_round"])}
    return MethodRun(**{**fields, "stats": SpecStats(**stats), "timings": Timings(**fields["timings"])})


def ends_in_a_loop(token_ids: Sequence[int]) -> bool:
    """Whether a caption ends in the same few tokens `LOOP_REPEATS` times in a row, its stop token left out."""
    body = list(token_ids[:-1])
    return any(
        len(body) >= LOOP_REPEATS * period and body[-period:] * LOOP_REPEATS == body[-LOOP_REPEATS * period :]
        for period in range(1, LOOP_PERIOD + 1)
    )
