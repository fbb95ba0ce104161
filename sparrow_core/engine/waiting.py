"""Requests that wait for room, in order of arrival. The first one's prompt is built meanwhile, on a thread of its own:
to cut a long video into patches takes as long as dozens of rounds."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from sparrow_core.decoding.target import Prompt
from sparrow_core.engine.ticket import Ticket
from sparrow_core.errors import EngineClosedError, SparrowError
from sparrow_core.types import Completion, Request, SpecStats, Timings


@dataclass(frozen=True)
class Ready:
    """A request that can join: who waits for it, its prompt, and the cache slots that it needs."""

    tickets: list[Ticket]
    prompt: Prompt
    need: int


@dataclass(eq=False)
class _Waiting:
    tickets: list[Ticket]
    building: Future[tuple[Prompt, int]] | None = None


class WaitingQueue:
    """Used by the engine's thread alone. `build` makes a request's prompt and says how many slots it needs."""

    def __init__(self, build: Callable[[Request], tuple[Prompt, int]]) -> None:
        self._build = build
        self._queue: deque[_Waiting] = deque()
        self._builder = ThreadPoolExecutor(1, "sparrow-prompts")

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, tickets: list[Ticket]) -> None:
        """Tickets of one prompt."""
        self._queue.append(_Waiting(tickets))

    def first(self, patience_s: float | None) -> Ready | None:
        """The first request without a fault, if its prompt is built within `patience_s`; faulty ones are settled.

        Raises what is no fault of a request, after settling its tickets.
        """
        while self._queue:
            waiting = self._queue[0]
            if waiting.building is None:
                waiting.building = self._builder.submit(self._build, waiting.tickets[0].request)
            if not wait([waiting.building], patience_s).done:
                return None
            try:
                return Ready(waiting.tickets, *waiting.building.result())
            except BaseException as error:
                self.pop()
                _fail(waiting.tickets, error)
                if not isinstance(error, SparrowError):
                    raise
        return None

    def pop(self) -> None:
        """The first has left; the next one's prompt is built when `first` is asked for."""
        self._queue.popleft()

    def drop_cancelled(self) -> None:
        """Settle those that were cancelled before they ran."""
        for waiting in self._queue:
            complete_cancelled(waiting.tickets)
        self._queue = deque(waiting for waiting in self._queue if waiting.tickets)

    def close(self) -> None:
        """Fail all that wait; returns when the thread has ended."""
        for waiting in self._queue:
            _fail(waiting.tickets, EngineClosedError("the engine was closed before this request ran"))
        self._queue.clear()
        self._builder.shutdown(cancel_futures=True)


def complete_cancelled(tickets: list[Ticket]) -> None:
    """Take those out of the list that were cancelled before they ran, and settle them."""
    for ticket in [ticket for ticket in tickets if ticket.cancelled]:
        tickets.remove(ticket)
        # Nothing was seen, nothing written.
        ticket.future.set_result(
            Completion(ticket.request.request_id, (), "", "cancelled", 0, 0, SpecStats(), Timings())
        )


def _fail(tickets: list[Ticket], error: BaseException) -> None:
    for ticket in tickets:
        ticket.future.set_exception(error)
