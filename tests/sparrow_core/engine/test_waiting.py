"""The waiting line: order of arrival, prompts built beside what runs, and faults that stay with their request."""

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
def new_line() -> Iterator[Callable[[Build], WaitingQueue]]:
    lines = []

    def new(build: Build) -> WaitingQueue:
        lines.append(WaitingQueue(build))
        return lines[-1]

    yield new
    for line in lines:
        line.close()


def test_they_leave_in_order_of_arrival(new_line) -> None:
    line = new_line(build)
    for name in ("a", "bb", "ccc"):
        line.add([ticket(name)])
    found = []
    while first := line.first(None):
        found.append((first.tickets[0].request.request_id, first.need))
        line.pop()
    assert found == [("a", 1), ("bb", 2), ("ccc", 3)] and not line


def test_a_prompt_under_way_is_not_waited_for(new_line) -> None:
    may_end = threading.Event()
    line = new_line(build_after(may_end))
    line.add([ticket("long")])
    assert line.first(0.001) is None and len(line) == 1
    may_end.set()
    first = line.first(None)
    assert first is not None and first.need == 4


def test_a_fault_is_its_own_requests(new_line) -> None:
    line = new_line(build)
    faulty, good = ticket("faulty"), ticket("good")
    line.add([faulty])
    line.add([good])
    first = line.first(None)
    assert first is not None and first.tickets == [good]
    with pytest.raises(ConfigError, match="too long"):
        faulty.result(0)


def test_what_is_no_fault_of_a_request_is_raised(new_line) -> None:
    line = new_line(build)
    broken = ticket("broken")
    line.add([broken])
    with pytest.raises(RuntimeError, match="no memory"):
        line.first(None)
    with pytest.raises(RuntimeError, match="no memory"):
        broken.result(0)


def test_cancelled_while_its_prompt_is_built(new_line) -> None:
    may_end = threading.Event()
    line = new_line(build_after(may_end))
    cancelled, other = ticket("cancelled"), ticket("other")
    line.add([cancelled])
    line.add([other])
    assert line.first(0.0) is None
    cancelled.cancel()
    line.drop_cancelled()
    assert cancelled.result(0).finish_reason == "cancelled"
    may_end.set()
    first = line.first(None)
    assert first is not None and first.tickets == [other]


def test_close_fails_those_who_wait() -> None:
    line = WaitingQueue(build)
    waiting = [ticket("a"), ticket("b")]
    line.add(waiting)
    line.close()
    for each in waiting:
        with pytest.raises(EngineClosedError):
            each.result(0)
