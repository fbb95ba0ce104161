"""The waiting queue: order of arrival, prompts built on another thread, and faults that stay with their request."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from sparrow_core.config import Sampling
from sparrow_core.decoding.target import Prompt
from sparrow_core.engine.ticket import DecodeMode, Ticket
from sparrow_core.engine.waiting import WaitingQueue
from sparrow_core.errors import ConfigError, EngineClosedError
from sparrow_core.types import Request

PROMPT = Prompt(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool), ())
Build = Callable[[Request], tuple[Prompt, int]]


def ticket(name: str) -> Ticket:
    return Ticket(Request((), request_id=name), DecodeMode(None, None, Sampling()))


def build(request: Request) -> tuple[Prompt, int]:
    if request.request_id == "faulty":
        raise ConfigError("too long")
    if request.request_id == "broken":
        raise RuntimeError("no memory")
    return PROMPT, len(request.request_id)


def build_after(may_end: threading.Event) -> Build:
    def slow(request: Request) -> tuple[Prompt, int]:
        assert may_end.wait(10)
        return build(request)

    return slow


@pytest.fixture
def new_queue() -> Iterator[Callable[[Build], WaitingQueue]]:
    queues = []

    def new(build: Build) -> WaitingQueue:
        queues.append(WaitingQueue(build))
        return queues[-1]

    yield new
    for waiting_queue in queues:
        waiting_queue.close()


def test_requests_leave_in_order_of_arrival(new_queue) -> None:
    waiting_queue = new_queue(build)
    for name in ("a", "bb", "ccc"):
        waiting_queue.add([ticket(name)])
    found = []
    while first := waiting_queue.first(None):
        found.append((first.tickets[0].request.request_id, first.num_slots))
        waiting_queue.pop()
    assert found == [("a", 1), ("bb", 2), ("ccc", 3)] and not waiting_queue


def test_a_prompt_under_construction_is_not_waited_for(new_queue) -> None:
    may_end = threading.Event()
    waiting_queue = new_queue(build_after(may_end))
    waiting_queue.add([ticket("long")])
    assert waiting_queue.first(0.001) is None and len(waiting_queue) == 1
    may_end.set()
    first = waiting_queue.first(None)
    assert first is not None and first.num_slots == 4


def test_a_fault_is_its_own_requests(new_queue) -> None:
    waiting_queue = new_queue(build)
    faulty, good = ticket("faulty"), ticket("good")
    waiting_queue.add([faulty])
    waiting_queue.add([good])
    first = waiting_queue.first(None)
    assert first is not None and first.tickets == [good]
    with pytest.raises(ConfigError, match="too long"):
        faulty.result(0)


def test_what_is_no_fault_of_a_request_is_raised(new_queue) -> None:
    waiting_queue = new_queue(build)
    broken = ticket("broken")
    waiting_queue.add([broken])
    with pytest.raises(RuntimeError, match="no memory"):
        waiting_queue.first(None)
    with pytest.raises(RuntimeError, match="no memory"):
        broken.result(0)


def test_cancelled_while_its_prompt_is_built(new_queue) -> None:
    may_end = threading.Event()
    waiting_queue = new_queue(build_after(may_end))
    cancelled, other = ticket("cancelled"), ticket("other")
    waiting_queue.add([cancelled])
    waiting_queue.add([other])
    assert waiting_queue.first(0.0) is None
    cancelled.cancel()
    waiting_queue.drop_cancelled()
    assert cancelled.result(0).finish_reason == "cancelled"
    may_end.set()
    first = waiting_queue.first(None)
    assert first is not None and first.tickets == [other]


def test_close_fails_waiting_tickets() -> None:
    waiting_queue = WaitingQueue(build)
    waiting = [ticket("a"), ticket("b")]
    waiting_queue.add(waiting)
    waiting_queue.close()
    for each in waiting:
        with pytest.raises(EngineClosedError):
            each.result(0)
