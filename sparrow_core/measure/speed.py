"""Measures the wall time of decoding: transformers' `generate`, our autoregressive loop and drafts on the same windows.

Owns the decode modes and the order in which they run. One prefill of a window serves all of our modes; they take turns,
several times over, so that a drift of the machine's speed affects all alike. The library's modes run before and after
them. The library runs while no engine exists, on a thread that ends, since each would slow the other down (see
`threads`). Does not know where windows come from.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparrow_core.config import DraftConfig, EngineConfig, Sampling
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.measure.names import AUTOREGRESSIVE, GOVERNOR, LIBRARY, LIBRARY_LOOKUP
from sparrow_core.measure.speed_rows import Run, SpeedRow, mode_totals, speed_row
from sparrow_core.targets import reference
from sparrow_core.targets.reference import ReferenceModel
from sparrow_core.threads import on_temporary_thread
from sparrow_core.types import Completion, Request

LOOKUP_TOKENS = 10
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class ThroughputRow:
    """Tokens per second of wall time over whole requests, vision and prefill included, `batch` of them at a time."""

    method: str
    visual_tokens: int
    batch: int
    windows: int
    tokens: int
    wall_s: float
    tokens_per_s: float


class SpeedCheck:
    """Times our engine and `library`, which is the same checkpoint as transformers loads it."""

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
            AUTOREGRESSIVE: DecodeMode(None, None, Sampling()),
            **{name: DecodeMode(drafter, shape, Sampling()) for name, shape in shapes.items()},
            GOVERNOR: DecodeMode(drafter, None, Sampling()),
        }

    def engine(self) -> Engine:
        """A new engine."""
        return on_temporary_thread(lambda: Engine(self._target, self._drafter, self._config))

    def measure(
        self, visual_tokens: int, requests: Sequence[Request], repeats: int, sampling: Sampling
    ) -> list[SpeedRow]:
        """Time every mode on windows of one nominal length -> one row per mode. The library's modes are greedy only."""
        windows = [self._repeated(request, repeats, sampling) for request in requests]
        totals = {mode: mode_totals([window[mode] for window in windows]) for mode in windows[0]}
        equal = {
            mode: all(
                run.token_ids == window[AUTOREGRESSIVE][0].token_ids for window in windows for run in window[mode]
            )
            for mode in totals
        }
        return [speed_row(mode, visual_tokens, sampling.temperature, totals, equal[mode]) for mode in totals]

    def throughput(self, visual_tokens: int, requests: Sequence[Request], batch: int) -> list[ThroughputRow]:
        """Time the requests, `batch` at a time, in the engine with its governor; with batch 1 also in the library."""
        rows = [self._engine_throughput(visual_tokens, requests, batch)]
        return [*rows, self._library_throughput(visual_tokens, requests)] if batch == 1 else rows

    def _engine_throughput(self, visual_tokens: int, requests: Sequence[Request], batch: int) -> ThroughputRow:
        wall_s, completions = 0.0, []
        with self.engine() as engine:
            engine.submit(replace(requests[0], max_new_tokens=WARM_UP_TOKENS)).result()
            for first in range(0, len(requests), batch):
                began = time.perf_counter()
                tickets = [engine.submit(request) for request in requests[first : first + batch]]
                completions += [ticket.result() for ticket in tickets]
                wall_s += time.perf_counter() - began
        tokens = sum(len(completion.token_ids) for completion in completions)
        return ThroughputRow(GOVERNOR, visual_tokens, batch, len(requests), tokens, wall_s, tokens / wall_s)

    def _library_throughput(self, visual_tokens: int, requests: Sequence[Request]) -> ThroughputRow:
        began = time.perf_counter()
        tokens = sum(len(self._generate(request, None).token_ids) for request in requests)
        wall_s = time.perf_counter() - began
        return ThroughputRow(LIBRARY, visual_tokens, 1, len(requests), tokens, wall_s, tokens / wall_s)

    def _repeated(self, request: Request, repeats: int, sampling: Sampling) -> dict[str, list[Run]]:
        """Run every mode `repeats` times; our modes run once more before, as a warm-up that is not counted."""
        greedy = sampling.temperature == 0
        library: dict[str, list[Run]] = {LIBRARY: [], LIBRARY_LOOKUP: []} if greedy else {}
        before = (repeats + 1) // 2
        self._run_library(library, request, before)
        modes = [(name, replace(mode, sampling=sampling)) for name, mode in self._modes.items()]
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
