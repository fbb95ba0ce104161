"""The waiting queue: requests that wait for room in the arena, in order of arrival.

The first request's prompt is built on a thread of its own meanwhile, because cutting a long video into patches takes as
long as dozens of rounds.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from sparrow_core.decoding.target import Prompt
from sparrow_core.engine.ticket import Ticket
from sparrow_core.errors import EngineClosedError, SparrowError
from sparrow_core.types import Completion, Request, SpecStats, Timings


@dataclass(frozen=True)
class BuiltRequest:
    """A request whose prompt is built: its tickets, the prompt, and the cache slots that it needs."""

    tickets: list[Ticket]
    prompt: Prompt
    num_slots: int


@dataclass(eq=False)
class _QueuedRequest:
    """The tickets of one prompt, and the prompt under construction, if that has begun."""

    tickets: list[Ticket]
    building: Future[tuple[Prompt, int]] | None = None


class WaitingQueue:
    """Used by the engine's thread alone. `build` returns a request's prompt and the number of slots that it needs."""

    def __init__(self, build: Callable[[Request], tuple[Prompt, int]]) -> None:
        self._build = build
        self._queue: deque[_QueuedRequest] = deque()
        self._builder = ThreadPoolExecutor(1, "sparrow-prompts")

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, tickets: list[Ticket]) -> None:
        """Queue one prompt's tickets, one for each decode mode."""
        self._queue.append(_QueuedRequest(tickets))

    def first(self, patience_s: float | None) -> BuiltRequest | None:
        """The first request whose prompt can be built, if that takes at most `patience_s` seconds (None: any time).

        A request that fails by its own fault (SparrowError) leaves the queue, and its tickets get the error. Any other
        error is set on the tickets, too, and raised.
        """
        while self._queue:
            queued = self._queue[0]
            if queued.building is None:
                queued.building = self._builder.submit(self._build, queued.tickets[0].request)
            if not wait([queued.building], patience_s).done:
                return None
            try:
                return BuiltRequest(queued.tickets, *queued.building.result())
            except BaseException as error:
                self.pop()
                _fail(queued.tickets, error)
                if not isinstance(error, SparrowError):
                    raise
        return None

    def pop(self) -> None:
        """Remove the first request. The next one's prompt is built when `first` is called."""
        self._queue.popleft()

    def drop_cancelled(self) -> None:
        """Complete and remove the tickets that were cancelled."""
        for queued in self._queue:
            complete_cancelled(queued.tickets)
        self._queue = deque(queued for queued in self._queue if queued.tickets)

    def close(self) -> None:
        """Fail all waiting tickets and end the builder's thread."""
        for queued in self._queue:
            _fail(queued.tickets, EngineClosedError("the engine was closed before this request ran"))
        self._queue.clear()
        self._builder.shutdown(cancel_futures=True)


def complete_cancelled(tickets: list[Ticket]) -> None:
    """Complete the tickets that were cancelled before they ran, and remove them from the list."""
    for ticket in [ticket for ticket in tickets if ticket.cancelled]:
        tickets.remove(ticket)
        # No visual token was embedded and no token was written.
        ticket.future.set_result(
            Completion(ticket.request.request_id, (), "", "cancelled", 0, 0, SpecStats(), Timings())
        )


def _fail(tickets: list[Ticket], error: BaseException) -> None:
    for ticket in tickets:
        ticket.future.set_exception(error)
