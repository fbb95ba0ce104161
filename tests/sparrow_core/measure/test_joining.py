"""What a joining prompt costs, from pieces of a stream that come at times written down here."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from sparrow_core.measure.joining import CAPTIONS_BEFORE, JoinRow, measure_joining
from sparrow_core.types import Completion, Request, Sampling, SpecStats, Timings

# Milliseconds. Alone the running stream's first piece comes, and then seven more, of a median that is not their mean;
# while the other joins there are 21, so that the 95th percentile is the second longest and the median the eleventh.
BEFORE_MS = [5, 10, 10, 10, 12, 10, 12, 40]
DURING_MS = [30, 20, 210, 40, 10, 50, 60, 200, 70, 80, 90, 100, 110, 120, 190, 130, 140, 180, 150, 170, 160]
AFTER_MS = [900, 900]  # no longer counted
ALONE_MS, FIRST_TOKEN_MS = 400, 1
Stream = Callable[[], AsyncIterator[list[int]]]


class ScriptedTicket:
    """A stream of pieces, and a completion that is there once somebody cancels."""

    def __init__(self, stream: Stream, visual_tokens: int) -> None:
        self._stream = stream
        self._completion = Completion("", (), "", "cancelled", 0, visual_tokens, SpecStats(), Timings())
        self.future: Future[Completion] = Future()

    def __aiter__(self) -> AsyncIterator[list[int]]:
        return self._stream()

    def cancel(self) -> None:
        if not self.future.done():
            self.future.set_result(self._completion)

    def result(self) -> Completion:
        return self._completion


class ScriptedEngine:
    """Plays the series above. The joining prompt's first token comes early in the last round beside it."""

    def __init__(self) -> None:
        self.now_ms = 1000.0
        self._joined, self._last_round, self._has_first_token = (asyncio.Event() for _ in range(3))
        self._num_submitted = 0

    def clock(self) -> float:
        return self.now_ms / 1000

    def default_mode(self, sampling: Sampling) -> None:
        return None

    def submit(self, request: Request) -> ScriptedTicket:
        self._num_submitted += 1
        return ScriptedTicket(self._alone if self._num_submitted == 1 else self._beside, 6000)

    def submit_modes(self, request: Request, modes: Sequence[Any]) -> list[ScriptedTicket]:
        assert len(modes) > CAPTIONS_BEFORE == len(BEFORE_MS)
        return [ScriptedTicket(self._running(number), 64) for number in range(CAPTIONS_BEFORE + 1)]

    async def _alone(self) -> AsyncIterator[list[int]]:
        self.now_ms += ALONE_MS
        yield [0]

    async def _beside(self) -> AsyncIterator[list[int]]:
        self._joined.set()
        await self._last_round.wait()
        self.now_ms += FIRST_TOKEN_MS
        self._has_first_token.set()
        yield [0]

    def _running(self, number: int) -> Stream:
        return partial(self._before, BEFORE_MS[number]) if number < CAPTIONS_BEFORE else self._during_and_after

    async def _before(self, took_ms: float) -> AsyncIterator[list[int]]:
        self.now_ms += took_ms
        yield [0]

    async def _during_and_after(self) -> AsyncIterator[list[int]]:
        await self._joined.wait()
        *during_ms, last_ms = DURING_MS
        for took_ms in during_ms:
            self.now_ms += took_ms
            yield [0]
        self._last_round.set()
        await self._has_first_token.wait()
        for took_ms in (last_ms - FIRST_TOKEN_MS, *AFTER_MS):
            self.now_ms += took_ms
            yield [0]
            await asyncio.sleep(0.01)  # the measurement looks every millisecond whether the round is over


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> JoinRow:
    engine = ScriptedEngine()
    monkeypatch.setattr(time, "perf_counter", engine.clock)
    return measure_joining(engine, Request(()), Request(()))  # type: ignore[arg-type]


def test_rounds_before_and_during_are_told_apart(found: JoinRow) -> None:
    assert (found.rounds_before, found.rounds_during) == (len(BEFORE_MS) - 1, len(DURING_MS))
    assert (found.running, found.joining) == (64, 6000)


def test_medians_and_the_95th_percentile(found: JoinRow) -> None:
    assert found.median_before_ms == pytest.approx(10)
    assert found.median_during_ms == pytest.approx(110)
    assert found.p95_during_ms == pytest.approx(200)
    assert found.longest_during_ms == pytest.approx(210)
    assert found.p95_over_median_before == pytest.approx(20)


def test_the_first_token_alone_and_beside(found: JoinRow) -> None:
    beside_s = (sum(DURING_MS[:-1]) + FIRST_TOKEN_MS) / 1000
    assert found.first_token_alone_s == pytest.approx(0.4)
    assert found.first_token_joining_s == pytest.approx(beside_s)
    assert found.joining_over_alone == pytest.approx(beside_s / 0.4)
