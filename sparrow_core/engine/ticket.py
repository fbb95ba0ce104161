"""A submitted request as its owner sees it: a future, a stream of committed tokens, and a way to give up."""

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
    """One way of decoding a prompt: with which drafter (None: without drafts), in which shape (None: the governor's
    choice) and how sampled; `recording` takes down the target's states meanwhile."""

    drafter: Drafter[Any] | None
    shape: DraftConfig | None
    sampling: Sampling
    recording: Recording | None = None


class Ticket:
    """Handle of one request. Thread-safe; the engine publishes, any number of owners read.

    `async for token_ids in ticket` yields the committed ids round by round, from the first, and ends when the request
    does; a failed request raises its error there and from `result`.
    """

    def __init__(self, request: Request, mode: DecodeMode) -> None:
        self.request = request
        self.mode = mode
        self.future: Future[Completion] = Future()
        # From here on only the engine settles it: an owner who stops waiting (asyncio cancels what it wraps) must not.
        self.future.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._chunks: list[list[int]] = []
        self._wakers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._cancelled = threading.Event()
        wake = weakref.WeakMethod(self._wake)  # a cycle would keep the request's frames until the collector comes
        self.future.add_done_callback(lambda _: _call(wake()))

    def result(self, timeout: float | None = None) -> Completion:
        """Block for the completion; TimeoutError after `timeout` seconds."""
        return self.future.result(timeout)

    def cancel(self) -> None:
        """Ask the engine to stop this request; it completes with what it has, `finish_reason` "cancelled"."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def publish(self, token_ids: list[int]) -> None:
        """Engine side: add one round's tokens to the stream."""
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
