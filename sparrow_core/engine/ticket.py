"""Tickets: a submitted request as its owner sees it, with a future, a stream of committed tokens and `cancel`."""

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafter import Drafter, Recording
from sparrow_core.types import Completion, Request


@dataclass(frozen=True)
class DecodeMode:
    """How a prompt is decoded.

    `drafter` None decodes without drafts; `shape` None leaves the shape of each draft to the governor. `recording` is
    given the target's hidden states while the caption is written.
    """

    drafter: Drafter[Any] | None
    shape: DraftConfig | None
    sampling: Sampling
    recording: Recording | None = None


class Ticket:
    """Handle of one request in one decode mode. Thread-safe: the engine publishes, any number of readers read.

    `async for token_ids in ticket` yields the committed token ids round by round, from the first round on, and ends
    when the request does. A failed request raises its error there and from `result`.
    """

    def __init__(self, request: Request, mode: DecodeMode) -> None:
        self.request = request
        self.mode = mode
        self.future: Future[Completion] = Future()
        # From here on only the engine completes the future: asyncio would cancel it when an owner stops waiting.
        self.future.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._chunks: list[list[int]] = []
        self._wakers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._cancelled = threading.Event()
        wake = weakref.WeakMethod(self._wake)  # a cycle would keep the request's frames until the collector comes
        self.future.add_done_callback(lambda _: _call(wake()))

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the completion. Raises TimeoutError after `timeout` seconds, or the request's own error."""
        return self.future.result(timeout)

    def cancel(self) -> None:
        """Ask the engine to stop this request. It completes with the tokens so far and `finish_reason` "cancelled"."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called; the request may still be running."""
        return self._cancelled.is_set()

    def publish(self, token_ids: list[int]) -> None:
        """For the engine: add one round's tokens to the stream."""
        with self._lock:
            self._chunks.append(token_ids)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            wakers = list(self._wakers)
        for loop, event in wakers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def __aiter__(self) -> AsyncIterator[list[int]]:
        waker = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._wakers.append(waker)
        try:
            seen = 0
            while True:
                waker[1].clear()
                done = self.future.done()
                with self._lock:
                    fresh = self._chunks[seen:]
                for chunk in fresh:
                    yield chunk
                seen += len(fresh)
                if done:
                    self.future.result()
                    return
                await waker[1].wait()
        finally:
            with self._lock:
                self._wakers.remove(waker)


def _call(function: Callable[[], None] | None) -> None:
    if function is not None:
        function()
