"""Wall time of decoding, measured: transformers' `generate`, our one-row loop and our drafts on the same windows.

Owns the modes and their ratios. One prefill of a window serves all of our modes, which run in turn, several times over,
so that a drift of the machine's speed meets them all; the library's modes run before and after. Figures are medians
over repeats. The library runs where no engine is, and on a thread that ends, or each would slow the other down
(`threads`). It does not know where windows come from.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from sparrow_core.config import DraftConfig, EngineConfig, Sampling
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.targets import reference
from sparrow_core.targets.reference import ReferenceModel
from sparrow_core.threads import on_temporary_thread
from sparrow_core.types import Completion, Request

LIBRARY, LIBRARY_LOOKUP = "transformers generate", "transformers prompt lookup"
ALONE, GOVERNED = "autoregressive", "governor"
LOOKUP_TOKENS = 10
WARM_UP_TOKENS = 8


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
    """One mode at one visual length, batch 1. `decode_s` runs from the end of prefill to the last token, drafter
    prefill in it; times are wall seconds per window.

    Speedups are ratios of measured times on the same windows: decoding against our own one-row loop and against
    `generate`, and the whole request (vision and prefill too) against our own loop; its bound is that of decoding in
    no time at all. `tau` counts the bonus token; `round_cost` is a round in steps of our loop. What needs rounds is
    None for the library.
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
class ThroughputRow:
    """Whole requests, vision and prefill too: tokens per second of wall time with `batch` of them side by side."""

    method: str
    visual_tokens: int
    batch: int
    windows: int
    tokens: int
    wall_s: float
    tokens_per_s: float


class SpeedCheck:
    """Engines beside `library`, the same checkpoint as transformers loads it."""

    def __init__(
        self,
        library: ReferenceModel,
        target: TargetModel,
        drafter: Drafter[Any],
        shapes: Mapping[str, DraftConfig],
        config: EngineConfig | None = None,
    ) -> None:
        self._target, self._library = target, library
        self._drafter, self._config = drafter, config
        self._modes = {
            ALONE: DecodeMode(None, None, Sampling()),
            **{name: DecodeMode(drafter, shape, Sampling()) for name, shape in shapes.items()},
            GOVERNED: DecodeMode(drafter, None, Sampling()),
        }

    def engine(self) -> Engine:
        """A new engine."""
        return on_temporary_thread(lambda: Engine(self._target, self._drafter, self._config))

    def measure(
        self, visual_tokens: int, requests: Sequence[Request], repeats: int, sampling: Sampling
    ) -> list[SpeedRow]:
        """All modes on windows of one nominal length -> one row per mode. The library takes part where it is greedy."""
        windows = [self._repeated(request, repeats, sampling) for request in requests]
        totals = {mode: _total([_median_run(window[mode]) for window in windows]) for mode in windows[0]}
        equal = {
            mode: all(run.token_ids == window[ALONE][0].token_ids for window in windows for run in window[mode])
            for mode in totals
        }
        return [
            _row(mode, visual_tokens, len(windows), sampling.temperature, total, totals, equal[mode])
            for mode, total in totals.items()
        ]

    def throughput(self, visual_tokens: int, requests: Sequence[Request], batch: int) -> list[ThroughputRow]:
        """The same requests `batch` at a time through the governor's engine; with batch 1 by the library as well."""
        took, completions = 0.0, []
        with self.engine() as engine:
            engine.submit(replace(requests[0], max_new_tokens=WARM_UP_TOKENS)).result()
            for first in range(0, len(requests), batch):
                began = time.perf_counter()
                tickets = [engine.submit(request) for request in requests[first : first + batch]]
                completions += [ticket.result() for ticket in tickets]
                took += time.perf_counter() - began
        tokens = sum(len(completion.token_ids) for completion in completions)
        rows = [ThroughputRow(GOVERNED, visual_tokens, batch, len(requests), tokens, took, tokens / took)]
        if batch == 1:
            began = time.perf_counter()
            tokens = sum(len(self._generate(request, None).token_ids) for request in requests)
            took = time.perf_counter() - began
            rows.append(ThroughputRow(LIBRARY, visual_tokens, 1, len(requests), tokens, took, tokens / took))
        return rows

    def _repeated(self, request: Request, repeats: int, sampling: Sampling) -> dict[str, list[Run]]:
        """Every mode `repeats` times, of ours after one run that warms up."""
        greedy = sampling.temperature == 0
        library: dict[str, list[Run]] = {LIBRARY: [], LIBRARY_LOOKUP: []} if greedy else {}
        before = (repeats + 1) // 2
        self._run_library(library, request, before)
        modes = [(name, DecodeMode(mode.drafter, mode.shape, sampling)) for name, mode in self._modes.items()]
        with self.engine() as engine:
            tickets = engine.submit_modes(request, [mode for _ in range(repeats + 1) for _, mode in modes])
            runs = [_run(ticket.result()) for ticket in tickets]
        self._run_library(library, request, repeats - before)
        ours = {name: runs[number + len(modes) :: len(modes)] for number, (name, _) in enumerate(modes)}
        return {**library, **ours}

    def _run_library(self, runs: dict[str, list[Run]], request: Request, times: int) -> None:
        for _ in range(times):
            for method, repeated in runs.items():
                repeated.append(self._generate(request, LOOKUP_TOKENS if method == LIBRARY_LOOKUP else None))

    def _generate(self, request: Request, lookup_tokens: int | None) -> Run:
        prompt = self._target.build_prompt(request.messages)
        limit = request.max_new_tokens
        result = on_temporary_thread(lambda: reference.generate(self._library, prompt, limit, lookup_tokens))
        return Run(result.token_ids, 0.0, result.first_token_s, result.decode_s)


def _run(completion: Completion) -> Run:
    timings = completion.timings
    return Run(
        token_ids=completion.token_ids,
        vision_s=timings.vision_s,
        prefill_s=timings.prefill_s,
        decode_s=timings.decode_s,
        rounds=completion.stats.rounds,
        draft_s=timings.draft_s + timings.drafter_prefill_s,
        verify_s=timings.verify_s,
    )


_TIMES = ("vision_s", "prefill_s", "decode_s", "draft_s", "verify_s")


@dataclass(frozen=True)
class _Total:
    """Sums over windows."""

    tokens: int
    rounds: float
    vision_s: float
    prefill_s: float
    decode_s: float
    draft_s: float
    verify_s: float

    @property
    def whole_s(self) -> float:
        return self.vision_s + self.prefill_s + self.decode_s


def _median_run(runs: Sequence[Run]) -> _Total:
    """Rounds too: the governor need not choose alike every time."""
    times = {name: median(getattr(run, name) for run in runs) for name in _TIMES}
    return _Total(len(runs[0].token_ids), median(run.rounds for run in runs), **times)


def _total(windows: Sequence[_Total]) -> _Total:
    sums = {name: sum(getattr(window, name) for window in windows) for name in ("tokens", "rounds", *_TIMES)}
    return _Total(**sums)


def _rate(total: _Total, windows: int) -> float:
    """Tokens a second after the first of each window: what is compared where captions differ (rejection sampling)."""
    return (total.tokens - windows) / total.decode_s


def _row(
    method: str,
    visual_tokens: int,
    windows: int,
    temperature: float,
    total: _Total,
    totals: Mapping[str, _Total],
    equal_tokens: bool,
) -> SpeedRow:
    alone, library = totals[ALONE], totals.get(LIBRARY)
    step_s = alone.decode_s / alone.rounds
    rounds, rate = total.rounds or None, _rate(total, windows)
    alone_decode_s = (total.tokens - windows) / _rate(alone, windows)  # of as many tokens
    return SpeedRow(
        method=method,
        visual_tokens=visual_tokens,
        batch=1,
        temperature=temperature,
        windows=windows,
        tokens=total.tokens,
        tau=(total.tokens - windows) / rounds if rounds else None,
        round_cost=total.decode_s / rounds / step_s if rounds else None,
        ar_step_ms=1000 * step_s,
        draft_ms_per_round=1000 * total.draft_s / rounds if rounds else None,
        verify_ms_per_round=1000 * total.verify_s / rounds if rounds else None,
        vision_s=total.vision_s / windows,
        prefill_s=total.prefill_s / windows,
        decode_s=total.decode_s / windows,
        tokens_per_s=rate,
        decode_speedup=rate / _rate(alone, windows),
        speedup_over_generate=rate / _rate(library, windows) if library else None,
        end_to_end_speedup=(alone.vision_s + alone.prefill_s + alone_decode_s) / total.whole_s,
        end_to_end_bound=alone.whole_s / (alone.vision_s + alone.prefill_s),
        equal_tokens=equal_tokens,
    )
