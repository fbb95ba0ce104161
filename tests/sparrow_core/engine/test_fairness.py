"""Who gets on with it while others want the engine, too: rounds beside a prompt, prompts in turn, order of arrival."""

import asyncio
import math
import threading
from collections.abc import Generator
from itertools import pairwise
from typing import Any

import pytest

from sparrow_core.config import DraftConfig, EngineConfig, PrefillConfig
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, TargetModel
from sparrow_core.engine import engine as engine_module
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import Ticket
from sparrow_core.types import Request
from tests.conftest import video_messages

CHUNK = 8
FOREVER = 5000  # tokens: cancelled long before
PREFILL_BEGINS = "a prompt's prefill begins"


@pytest.fixture
def events(tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the engine does, in order: PREFILL_BEGINS, and the id of a request whenever tokens of it are published."""
    seen: list[str] = []
    publish, embed = Ticket.publish, tiny_target.embed_by_frames

    def published(ticket: Ticket, token_ids: list[int]) -> None:
        seen.append(ticket.request.request_id)
        publish(ticket, token_ids)

    def embedding(prompt: Prompt) -> Generator[None, None, EmbeddedPrompt]:
        seen.append(PREFILL_BEGINS)
        return (yield from embed(prompt))

    monkeypatch.setattr(Ticket, "publish", published)
    monkeypatch.setattr(tiny_target, "embed_by_frames", embedding)
    return seen


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes second joins at once, however slow this machine is."""
    monkeypatch.setattr(engine_module, "PATIENCE_S", 20.0)


def engine_of(target: TargetModel, slice_ms: float, **room: int) -> Engine:
    room = {"max_model_tokens": 6000, "max_sequences": 3, "arena_tokens": 12_000} | room
    return Engine(target, None, EngineConfig(DraftConfig.chain(1), PrefillConfig(CHUNK, slice_ms), **room))


def request(name: str, num_frames: int, max_new_tokens: int) -> Request:
    return Request(video_messages(num_frames=num_frames), max_new_tokens=max_new_tokens, request_id=name)


def new_tokens(target: TargetModel, need: int) -> int:
    """The new tokens with which a request for a video of four frames needs so many slots."""
    return need - target.build_prompt(video_messages()).token_ids_S.numel() - DraftConfig.chain(1).total


def submit_running(engine: Engine, max_new_tokens: int = FOREVER) -> Ticket:
    """A caption under way: its first token is there."""

    async def first_tokens(ticket: Ticket) -> None:
        await anext(aiter(ticket))

    ticket = engine.submit(request("running", 4, max_new_tokens))
    asyncio.run(first_tokens(ticket))
    return ticket


def test_rounds_go_on_while_a_long_prompt_is_prefilled(tiny_target: TargetModel, events: list[str]) -> None:
    """In the shortest slices the running caption gets a round for every layer of every chunk of the other's prompt."""
    with engine_of(tiny_target, slice_ms=0) as engine:
        running = submit_running(engine)
        completion = engine.submit(request("long", 40, 1)).result(60)
        running.cancel()
    begins = len(events) - 1 - events[::-1].index(PREFILL_BEGINS)
    rounds = events[begins : events.index("long")].count("running")
    assert rounds >= math.ceil(completion.prompt_tokens / CHUNK) * tiny_target.info.num_layers > 20


def test_a_slice_is_as_long_as_it_is_set(tiny_target: TargetModel, events: list[str]) -> None:
    """In one that does not end the whole prompt is prefilled between two rounds."""
    with engine_of(tiny_target, slice_ms=1e6) as engine:
        running = submit_running(engine)
        engine.submit(request("long", 40, 1)).result(60)
        running.cancel()
    begins = len(events) - 1 - events[::-1].index(PREFILL_BEGINS)
    assert events[begins : events.index("long")].count("running") == 0


@pytest.mark.usefixtures("patience")
def test_prompts_are_prefilled_in_turn(
    tiny_target: TargetModel, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While two are under way, chunks of the one and of the other follow each other, whichever came first."""
    chunks: list[Any] = []
    forward = tiny_target.forward_by_layer

    def passing(embeddings_RD: Any, positions_AR: Any, sequences: Any, *taps: Any) -> Any:
        (rows,) = sequences
        if rows.cache.prompt_length is None:
            chunks.append(rows.cache)
        return (yield from forward(embeddings_RD, positions_AR, sequences, *taps))

    with engine_of(tiny_target, slice_ms=0) as engine:
        monkeypatch.setattr(tiny_target, "forward_by_layer", passing)
        longer, shorter = (
            engine.submit(request(name, frames, 1)) for name, frames in (("longer", 120), ("shorter", 40))
        )
        for ticket in (longer, shorter):
            ticket.result(60)
    is_first = [cache is chunks[0] for cache in chunks]
    both_begun = is_first.index(False)
    one_done = len(chunks) - 1 - max(is_first[::-1].index(True), is_first[::-1].index(False))
    assert one_done - both_begun > 20
    assert all(one != other for one, other in pairwise(is_first[both_begun : one_done + 1]))


@pytest.mark.usefixtures("patience")
def test_a_short_prompt_does_not_wait_for_a_long_one(tiny_target: TargetModel, events: list[str]) -> None:
    with engine_of(tiny_target, slice_ms=0) as engine:
        tickets = [engine.submit(request(name, frames, 1)) for name, frames in (("long", 120), ("short", 4))]
        for ticket in tickets:
            ticket.result(60)
    assert events.index("short") < events.index("long")


def test_a_large_request_is_not_overtaken_by_a_small_one(tiny_target: TargetModel, events: list[str]) -> None:
    """There is room for the small one beside the running caption, but the large one, which has to wait, came first."""
    with engine_of(tiny_target, 0, max_model_tokens=150, arena_tokens=230) as engine:
        running = submit_running(engine, new_tokens(tiny_target, 120))
        large, small = (
            engine.submit(request(name, 4, new_tokens(tiny_target, need)))
            for name, need in (("large", 150), ("small", 80))
        )
        assert large.result(60).token_ids and small.result(60).token_ids and running.result(60).token_ids
    first, last = events.index, len(events) - 1 - events[::-1].index("running")
    assert last < first("large") < first("small")
    assert first("small") < len(events) - 1 - events[::-1].index("large"), "together they have room"


@pytest.mark.usefixtures("patience")
def test_all_that_decode_are_in_every_round(tiny_target: TargetModel, events: list[str]) -> None:
    with engine_of(tiny_target, slice_ms=0) as engine:
        for ticket in [engine.submit(request(name, 4, 40)) for name in ("a", "b", "c")]:
            ticket.result(60)
    together = [event for event in events if event != PREFILL_BEGINS]
    together = together[max(together.index(name) for name in "abc") + 1 :]
    rounds = min(together.count(name) for name in "abc")
    assert rounds > 10
    assert all(set(together[3 * index : 3 * index + 3]) == {"a", "b", "c"} for index in range(rounds))


def test_rounds_do_not_wait_for_a_prompt_that_is_long_to_build(
    tiny_target: TargetModel, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, build = threading.Event(), tiny_target.build_prompt

    def slowly(messages: Any) -> Prompt:
        if len(messages[0].parts[0].times_s) == 8:  # the long one's frames
            assert may_end.wait(30)
        return build(messages)

    monkeypatch.setattr(tiny_target, "build_prompt", slowly)
    with engine_of(tiny_target, slice_ms=0) as engine:
        running = submit_running(engine, max_new_tokens=40)
        long = engine.submit(request("long", 8, 1))
        assert len(running.result(20).token_ids) == 40 and "long" not in events
        may_end.set()
        assert long.result(60).token_ids


@pytest.mark.usefixtures("patience")
def test_all_that_fit_join_at_once(tiny_target: TargetModel, events: list[str]) -> None:
    """Three prompts wait until a large request has gone; their first tokens come before anybody's second."""
    with engine_of(tiny_target, slice_ms=1e6, max_model_tokens=200, arena_tokens=200) as engine:
        running = submit_running(engine, new_tokens(tiny_target, 200))
        tickets = [engine.submit(request(name, 4, 5)) for name in ("a", "b", "c")]
        running.cancel()
        for ticket in tickets:
            ticket.result(60)
    joined = [event for event in events if event in "abc"]
    assert joined[:3] == ["a", "b", "c"]
