"""Measures how a long prompt that joins slows down a running caption, and how that caption slows down the prompt.

Rounds are timed where a reader of the stream sees them. The running window is decoded again and again from one prefill,
so that it runs until the prefill of the joining prompt is done.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import Ticket
from sparrow_core.types import Completion, Request

CAPTIONS_BEFORE = 8  # captions of the running window before the other window joins
CAPTIONS = 500  # more than can be decoded during the joining prompt's prefill


@dataclass(frozen=True)
class JoinRow:
    """Times between two rounds of the running caption in milliseconds, before and during the joining prompt's prefill;
    seconds from the submission of the joining request to its first token, alone in the engine and while the other runs.

    `running` and `joining` are the two windows' lengths in visual tokens.
    """

    running: int
    joining: int
    rounds_before: int
    rounds_during: int
    median_before_ms: float
    median_during_ms: float
    p95_during_ms: float
    longest_during_ms: float
    p95_over_median_before: float
    first_token_alone_s: float
    first_token_joining_s: float
    joining_over_alone: float


def measure_joining(engine: Engine, running: Request, joining: Request) -> JoinRow:
    """Submit `joining` while `running` is decoded. The engine must have room for both and must be idle."""
    return asyncio.run(_measure(engine, running, joining))


async def _measure(engine: Engine, running: Request, joining: Request) -> JoinRow:
    alone_s, _ = await _first_token(engine.submit(joining))
    tickets = engine.submit_modes(running, [engine.default_mode(running.sampling)] * CAPTIONS)
    ends: list[float] = []
    warm = asyncio.Event()
    following = asyncio.create_task(_follow(tickets, ends, warm))
    await warm.wait()
    began = time.perf_counter()
    joining_s, completion = await _first_token(engine.submit(joining))
    joined = began + joining_s
    while ends[-1] <= joined:  # the round in progress counts
        await asyncio.sleep(0.001)
    for ticket in tickets:
        ticket.cancel()
    await following
    before_ms = [1000 * (end - start) for start, end in pairwise(ends) if end <= began]
    during_ms = [1000 * (end - start) for start, end in pairwise(ends) if start < joined and end > began]
    p95_ms, before_median_ms = float(np.quantile(during_ms, 0.95)), median(before_ms)
    return JoinRow(
        running=tickets[0].result().visual_tokens,
        joining=completion.visual_tokens,
        rounds_before=len(before_ms),
        rounds_during=len(during_ms),
        median_before_ms=before_median_ms,
        median_during_ms=median(during_ms),
        p95_during_ms=p95_ms,
        longest_during_ms=max(during_ms),
        p95_over_median_before=p95_ms / before_median_ms,
        first_token_alone_s=alone_s,
        first_token_joining_s=joining_s,
        joining_over_alone=joining_s / alone_s,
    )


async def _follow(tickets: Sequence[Ticket], ends: list[float], warm: asyncio.Event) -> None:
    """Read one stream after the other; append the time at which each round arrives to `ends`."""
    for number, ticket in enumerate(tickets):
        if number == CAPTIONS_BEFORE:
            warm.set()
        async for _ in ticket:
            ends.append(time.perf_counter())


async def _first_token(ticket: Ticket) -> tuple[float, Completion]:
    """Seconds to the first token; the rest of the caption is cancelled."""
    began = time.perf_counter()
    async for _ in ticket:
        break
    took = time.perf_counter() - began
    ticket.cancel()
    return took, await asyncio.wrap_future(ticket.future)
