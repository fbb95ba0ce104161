"""The engine writes the model's own tokens whatever the drafter, and survives its users."""

import asyncio
import dataclasses
import gc
import os
import random
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sparrow_core.config import DraftConfig, EngineConfig, PrefillConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.drafter import DraftContext, Drafter, DraftJob, PromptContext
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.engine import engine as engine_module
from sparrow_core.engine.costs import measure_costs
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.governor import Costs
from sparrow_core.engine.ticket import DecodeMode, Ticket
from sparrow_core.errors import ConfigError, EngineClosedError
from sparrow_core.targets import reference
from sparrow_core.types import Draft, Message, Request, Sampling
from tests.conftest import video_messages

TRAFFIC_S = float(os.environ.get("SPARROW_TRAFFIC_SECONDS", "3"))
SMALL_CHUNKS = PrefillConfig(chunk_tokens=32, slice_ms=0)
SHAPES = {"chain": DraftConfig.chain(4), "tree": DraftConfig(depth=4, width=3, total=12)}


class OracleDrafter:
    """Drafts tokens that are right at some positions and wrong at others, so that every length of acceptance occurs."""

    name = "oracle"
    visual_needs = None

    def __init__(self, answer: tuple[int, ...], wrong_every: int) -> None:
        self.answer, self.wrong_every = answer, wrong_every

    def open(self, context: PromptContext, max_new_tokens: int) -> "OracleDrafter":
        return self

    def propose(self, jobs: Sequence[DraftJob["OracleDrafter"]]) -> list[Draft]:
        return [self.draft(job) for job in jobs]

    def draft(self, job: DraftJob["OracleDrafter"]) -> Draft:
        draft_context = job.draft_context
        tokens = [draft_context.root, *self.answer[draft_context.position : draft_context.position + job.shape.depth]]
        for index in range(1, len(tokens)):
            if (draft_context.position + index) % self.wrong_every == 0:
                tokens[index] = (tokens[index] + 1) % 100
        return Draft(torch.tensor(tokens), torch.arange(-1, len(tokens) - 1))

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        pass


def drafter(name: str, target: TargetModel, answer: tuple[int, ...]) -> Drafter | None:
    if name == "sparrow":
        torch.manual_seed(0)
        return SparrowDrafter.untrained(target)
    if name == "lookup":
        return PromptLookupDrafter(target.info.vocab_size)
    wrong_every = {"always wrong": 1, "wrong every third": 3, "right": 10**9}.get(name)
    return OracleDrafter(answer, wrong_every) if wrong_every else None


DRAFTERS = ("sparrow", "lookup", "always wrong", "wrong every third", "right", "none")


@pytest.fixture(scope="module")
def greedy_answer(tiny_checkpoint: Path, tiny_target: TargetModel) -> tuple[int, ...]:
    """What transformers' own `generate` writes."""
    library = reference.load_reference(str(tiny_checkpoint), device=torch.device("cpu"), dtype=torch.float32)
    return reference.generate(library, tiny_target.build_prompt(video_messages()), 40).token_ids


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DRAFTERS)
def test_greedy_equals_the_library(
    tiny_target: TargetModel, greedy_answer: tuple[int, ...], name: str, shape: str
) -> None:
    with Engine(tiny_target, drafter(name, tiny_target, greedy_answer), EngineConfig(SHAPES[shape])) as engine:
        completion = engine.submit(Request(video_messages(), max_new_tokens=40)).result(60)
    assert completion.token_ids == greedy_answer
    assert completion.stats.tokens_from_rounds == len(greedy_answer) - 1
    if name == "right":
        assert completion.stats.tau > 4
    if name in ("always wrong", "none"):
        assert completion.stats.tau == 1


def test_greedy_equals_the_library_after_a_long_video(tiny_checkpoint: Path, tiny_target: TargetModel) -> None:
    """Temporal positions exceed those of the text that follows: generation must continue from the text's."""
    library = reference.load_reference(str(tiny_checkpoint), device=torch.device("cpu"), dtype=torch.float32)
    messages = video_messages(num_frames=40)
    expected = reference.generate(library, tiny_target.build_prompt(messages), 40).token_ids
    with Engine(tiny_target, drafter("sparrow", tiny_target, ()), EngineConfig(SHAPES["tree"])) as engine:
        assert engine.submit(Request(messages, max_new_tokens=40)).result(60).token_ids == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["sparrow", "always wrong", "right"])
def test_shared_noise_equals_the_autoregressive_loop(tiny_target: TargetModel, name: str, shape: str) -> None:
    prompt = tiny_target.build_prompt(video_messages())
    for seed in range(5):
        sampling = Sampling(0.9, 0.95, 50, seed)
        answer = generate_autoregressively(tiny_target, prompt, sampling, 24)
        with Engine(tiny_target, drafter(name, tiny_target, answer), EngineConfig(SHAPES[shape])) as engine:
            completion = engine.submit(Request(video_messages(), sampling, 24)).result(60)
        assert completion.token_ids == answer
        if name == "right":
            assert completion.stats.rounds < len(answer) / 2


def test_decoding_time_includes_the_drafters_prefill(tiny_target: TargetModel) -> None:
    class Slow(OracleDrafter):
        def open(self, context: PromptContext, max_new_tokens: int) -> OracleDrafter:
            time.sleep(0.2)
            return self

    with Engine(tiny_target, Slow((), 1), EngineConfig(SHAPES["chain"])) as engine:
        slow = engine.submit_modes(
            Request(video_messages(), max_new_tokens=3),
            [engine.default_mode(Sampling()), DecodeMode(None, None, Sampling())],
        )
        timings, alone = (ticket.result(60).timings for ticket in slow)
    assert timings.drafter_prefill_s >= 0.2 and timings.decode_s >= 0.2
    assert alone.drafter_prefill_s < 0.1


def mixed_requests() -> list[Request]:
    """Prompts of many lengths, greedy and sampled by both rules, with short and long captions."""
    samplings = (Sampling(), Sampling(0.9, 0.95, 50, 3), Sampling(1.0, seed=4), Sampling(0.8, seed=5, rule="rejection"))
    return [
        Request(video_messages(seed=index, num_frames=2 + 2 * index), samplings[index % 4], 8 + 5 * index, str(index))
        for index in range(9)
    ]


@pytest.mark.parametrize("max_sequences", [2, 8])
def test_company_changes_no_token(tiny_target: TargetModel, max_sequences: int) -> None:
    """Requests that join and leave at different times, in a small arena, against the same ones one at a time."""
    sparrow = drafter("sparrow", tiny_target, ())
    crowd = EngineConfig(
        SHAPES["tree"], SMALL_CHUNKS, max_model_tokens=256, max_sequences=max_sequences, arena_tokens=600
    )
    alone = dataclasses.replace(crowd, max_sequences=1)
    with Engine(tiny_target, sparrow, alone) as engine:
        expected = [engine.submit(request).result(60).token_ids for request in mixed_requests()]
    with Engine(tiny_target, sparrow, crowd) as engine:
        tickets = [engine.submit(request) for request in mixed_requests()]
        found = [ticket.result(60).token_ids for ticket in tickets]
        assert engine.free_slots == 600
        engine._arena.check()
    assert found == expected
    greedy_and_shared = [request for request in mixed_requests() if request.sampling.rule == "shared_noise"]
    for request in greedy_and_shared:
        prompt = tiny_target.build_prompt(request.messages)
        answer = generate_autoregressively(tiny_target, prompt, request.sampling, request.max_new_tokens, SMALL_CHUNKS)
        assert found[int(request.request_id)] == answer


@pytest.mark.parametrize("max_sequences", [1, 3])
def test_modes_of_one_prompt_share_its_prefill(tiny_target: TargetModel, max_sequences: int) -> None:
    """Each decode mode gives what it gives alone, while other requests run beside it."""
    config = EngineConfig(prefill=SMALL_CHUNKS, max_model_tokens=256, max_sequences=max_sequences, arena_tokens=800)
    sparrow = drafter("sparrow", tiny_target, ())
    request, sampled = Request(video_messages(seed=9), max_new_tokens=30), Sampling(0.9, 0.95, 50, 7)
    modes = [
        DecodeMode(sparrow, SHAPES["tree"], Sampling()),
        DecodeMode(None, None, Sampling()),
        DecodeMode(PromptLookupDrafter(tiny_target.info.vocab_size), SHAPES["chain"], sampled),
        DecodeMode(sparrow, None, sampled),
    ]
    prompt = tiny_target.build_prompt(request.messages)
    greedy = generate_autoregressively(tiny_target, prompt, Sampling(), 30, SMALL_CHUNKS)
    by_chance = generate_autoregressively(tiny_target, prompt, sampled, 30, SMALL_CHUNKS)
    with Engine(tiny_target, sparrow, config) as engine:
        others = [engine.submit(request) for request in mixed_requests()[:4]]
        completions = [ticket.result(60) for ticket in engine.submit_modes(request, modes)]
        assert [completion.token_ids for completion in completions] == [greedy, greedy, by_chance, by_chance]
        assert completions[1].stats.tau == 1
        assert len({completion.timings.vision_s for completion in completions}) == 1
        first, second = engine.submit_modes(request, modes[:2])
        first.cancel()
        assert second.result(60).token_ids == greedy
        assert all(ticket.result(60) for ticket in others)
        assert engine.free_slots == 800
        engine._arena.check()


def test_every_drafter_has_a_governor_of_its_own(tiny_target: TargetModel) -> None:
    """Also in an engine whose own drafter is None."""
    drafters = [drafter("sparrow", tiny_target, ()), PromptLookupDrafter(tiny_target.info.vocab_size)]
    request = Request(video_messages(seed=9), max_new_tokens=30)
    with Engine(tiny_target, None, EngineConfig(max_model_tokens=256)) as engine:
        tickets = engine.submit_modes(request, [DecodeMode(one, None, Sampling()) for one in drafters])
        completions = [ticket.result(60) for ticket in tickets]
        assert all(completion.stats.drafted for completion in completions)
        assert completions[0].token_ids == completions[1].token_ids == engine.submit(request).result(60).token_ids


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 if Path("/proc/self/statm").exists() else 0


@pytest.mark.timeout(TRAFFIC_S + 120)
def test_random_traffic_gives_all_rooms_back(tiny_target: TargetModel) -> None:
    """Requests are submitted, cancelled and finished at random: each ends, the arena is whole, memory does not grow.

    `SPARROW_TRAFFIC_SECONDS` sets the duration.
    """
    rng = random.Random(0)
    config = EngineConfig(SHAPES["chain"], SMALL_CHUNKS, max_model_tokens=200, max_sequences=4, arena_tokens=500)
    with Engine(tiny_target, drafter("sparrow", tiny_target, ()), config) as engine:
        reasons: set[str] = set()
        began, after_warm_up = time.monotonic(), 0
        while time.monotonic() < began + TRAFFIC_S:
            tickets = []
            for _ in range(30):
                frames, new = rng.choice([2, 4, 20]), rng.randint(1, 40)
                tickets.append(engine.submit(Request(video_messages(num_frames=frames), max_new_tokens=new)))
                if rng.random() < 0.4:
                    rng.choice(tickets).cancel()
                time.sleep(rng.random() * 0.01)
            reasons |= {ticket.result(60).finish_reason for ticket in tickets}
            assert engine.free_slots == 500
            engine._arena.check()
            after_warm_up = after_warm_up or resident_bytes()
        assert reasons >= {"length", "cancelled"}
        assert resident_bytes() < after_warm_up + 50e6


@pytest.mark.parametrize("outcome", ["length", "cancelled"])
def test_finished_requests_are_freed_at_once(tiny_target: TargetModel, outcome: str) -> None:
    """A request holds the frames of its video: they must not wait for Python's collector of cycles."""
    new = {"length": 5, "cancelled": 5000}[outcome]
    with Engine(tiny_target, drafter("sparrow", tiny_target, ())) as engine:
        engine.submit(Request(video_messages(), max_new_tokens=5)).result(60)  # costs are measured
        gc.collect()
        gc.disable()
        try:
            request = Request(video_messages(), max_new_tokens=new)
            ticket = engine.submit(request)
            seen = weakref.ref(request)
            if outcome == "cancelled":
                asyncio.run(first_chunk(ticket))
                ticket.cancel()
            assert ticket.result(60).finish_reason == outcome
            del request, ticket
            engine.submit(Request(video_messages(), max_new_tokens=1)).result(60)  # the thread has moved on
            assert seen() is None
        finally:
            gc.enable()


def test_every_round_has_a_number_of_its_own(tiny_target: TargetModel, greedy_answer: tuple[int, ...]) -> None:
    """It keys the randomness of rejection sampling, which must be fresh in every round."""
    contexts: list[DraftContext] = []

    class Noting(OracleDrafter):
        def draft(self, job: DraftJob[OracleDrafter]) -> Draft:
            contexts.append(job.draft_context)
            return super().draft(job)

    with Engine(tiny_target, Noting(greedy_answer, 3), EngineConfig(SHAPES["chain"])) as engine:
        stats = engine.submit(Request(video_messages(), max_new_tokens=40)).result(60).stats
    assert [context.round_index for context in contexts] == list(range(stats.rounds))
    assert [context.root for context in contexts] == [greedy_answer[context.position - 1] for context in contexts]


def test_rejection_sampling_is_repeatable(tiny_target: TargetModel) -> None:
    request = Request(video_messages(), Sampling(1.0, 0.95, 0, 5, "rejection"), 24)
    with Engine(tiny_target, drafter("sparrow", tiny_target, ()), EngineConfig(SHAPES["tree"])) as engine:
        first, second = (engine.submit(request).result(60) for _ in range(2))
    assert first.token_ids == second.token_ids


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_max_new_tokens_cuts_inside_a_round(
    tiny_target: TargetModel, greedy_answer: tuple[int, ...], limit: int
) -> None:
    with Engine(tiny_target, OracleDrafter(greedy_answer, 10**9)) as engine:
        completion = engine.submit(Request(video_messages(), max_new_tokens=limit)).result(60)
    assert (completion.token_ids, completion.finish_reason) == (greedy_answer[:limit], "length")


def test_stop_token_ends_a_caption_inside_a_round(
    tiny_target: TargetModel, greedy_answer: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    first_seen = next(i for i in range(4, 40) if greedy_answer[i] not in greedy_answer[:i])
    info = replace(tiny_target.info, stop_token_ids=frozenset([greedy_answer[first_seen]]))
    monkeypatch.setattr(tiny_target, "info", info)
    with Engine(tiny_target, OracleDrafter(greedy_answer, 10**9)) as engine:
        completion = engine.submit(Request(video_messages(), max_new_tokens=40)).result(60)
    assert (completion.token_ids, completion.finish_reason) == (greedy_answer[: first_seen + 1], "stop")


def test_stream_yields_what_is_committed(tiny_target: TargetModel) -> None:
    async def collect(engine: Engine) -> tuple[list[list[int]], list[list[int]], tuple[int, ...]]:
        ticket = engine.submit(Request(video_messages(), max_new_tokens=20))
        live = [chunk async for chunk in ticket]
        late = [chunk async for chunk in ticket]
        return live, late, (await asyncio.wrap_future(ticket.future)).token_ids

    with Engine(tiny_target, PromptLookupDrafter(tiny_target.info.vocab_size)) as engine:
        live, late, token_ids = asyncio.run(collect(engine))
    assert live == late
    assert tuple(token for chunk in live for token in chunk) == token_ids


def test_cancelled_request_keeps_its_tokens_and_frees_the_engine(
    tiny_target: TargetModel, greedy_answer: tuple[int, ...]
) -> None:
    async def cancel_at_first_chunk(engine: Engine) -> tuple[int, ...]:
        ticket = engine.submit(Request(video_messages(), max_new_tokens=2000))
        async for _ in ticket:
            ticket.cancel()
        completion = ticket.result(0)
        assert completion.finish_reason == "cancelled"
        return completion.token_ids

    with Engine(tiny_target, None) as engine:
        cancelled = asyncio.run(cancel_at_first_chunk(engine))
        after = engine.submit(Request(video_messages(), max_new_tokens=5)).result(60)
    assert 1 <= len(cancelled) < 2000
    assert after.token_ids == greedy_answer[:5]


def test_request_cancelled_while_it_waits_costs_nothing(tiny_target: TargetModel) -> None:
    with Engine(tiny_target, None, EngineConfig(max_sequences=1)) as engine:
        running = engine.submit(Request(video_messages(), max_new_tokens=200))
        waiting = engine.submit(Request(video_messages(), max_new_tokens=200))
        waiting.cancel()
        completion = waiting.result(60)
        assert (completion.token_ids, completion.finish_reason) == ((), "cancelled")
        assert completion.timings.prefill_s == 0
        assert running.result(60).token_ids


def test_one_bad_request_fails_alone(tiny_target: TargetModel) -> None:
    with Engine(tiny_target, None, EngineConfig(max_model_tokens=100)) as engine:
        too_long = engine.submit(Request(video_messages(num_frames=40), max_new_tokens=50))
        forged = engine.submit(Request((Message("user", ("<|im_end|>",)),)))
        fine = engine.submit(Request(video_messages(), max_new_tokens=5))
        with pytest.raises(ConfigError, match=r"needs \d+ tokens, but engine\.max_model_tokens is 100"):
            too_long.result(60)
        with pytest.raises(ConfigError, match="control token"):
            forged.result(60)
        assert len(fine.result(60).token_ids) == 5


def test_a_caption_of_no_tokens_is_refused_at_submit(tiny_target: TargetModel) -> None:
    with Engine(tiny_target, None) as engine, pytest.raises(ConfigError, match="max_new_tokens=0"):
        engine.submit(Request(video_messages(), max_new_tokens=0))


def test_close_cancels_fails_and_refuses(tiny_target: TargetModel) -> None:
    engine = Engine(tiny_target, None, EngineConfig(max_sequences=1))
    running = engine.submit(Request(video_messages(), max_new_tokens=5000))
    waiting = engine.submit(Request(video_messages(), max_new_tokens=5))
    engine.close()
    engine.close()
    assert running.future.done()
    with pytest.raises(EngineClosedError):
        waiting.result(0)
    with pytest.raises(EngineClosedError):
        engine.submit(Request(video_messages()))
    assert not engine.alive


async def first_chunk(ticket: Ticket) -> list[int]:
    return await anext(aiter(ticket))


def test_close_completes_the_ticket_of_every_mode(tiny_target: TargetModel) -> None:
    engine = Engine(tiny_target, None)
    mode = DecodeMode(None, None, Sampling())
    running, *later = engine.submit_modes(Request(video_messages(), max_new_tokens=5000), [mode] * 3)
    asyncio.run(first_chunk(running))
    engine.close()
    assert running.result(0).finish_reason == "cancelled" and running.result(0).token_ids
    for ticket in later:
        with pytest.raises(EngineClosedError):
            ticket.result(0)


def test_a_fault_while_a_prompt_is_built_reaches_its_owner(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no tokenizer")

    monkeypatch.setattr(tiny_target, "build_prompt", broken)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    engine = Engine(tiny_target, None)
    with pytest.raises(RuntimeError, match="no tokenizer"):
        engine.submit(Request(video_messages())).result(60)
    engine.close()


def test_a_room_that_is_not_given_back_ends_the_engine(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine checks its arena whenever it has nothing to do: a leak must not shrink it silently."""
    errors: list[BaseException | None] = []
    monkeypatch.setattr("threading.excepthook", lambda args: errors.append(args.exc_value))
    engine = Engine(tiny_target, None)
    engine._arena.lease(10)
    assert engine.submit(Request(video_messages(), max_new_tokens=3)).result(60).token_ids
    engine._thread.join(60)
    assert not engine.alive
    assert "1 rooms of the arena are still leased" in str(errors[0])
    with pytest.raises(EngineClosedError):
        engine.submit(Request(video_messages()))


def test_broken_machine_ends_the_engine_loudly(tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not the user's (a CUDA error, say) fails every ticket and ends the engine."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("device lost")

    engine = Engine(tiny_target, None, EngineConfig(max_sequences=1))
    monkeypatch.setattr(tiny_target, "forward", broken)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    tickets = [engine.submit(Request(video_messages())) for _ in range(2)]
    with pytest.raises(RuntimeError, match="device lost"):
        tickets[0].result(60)
    with pytest.raises(EngineClosedError):
        tickets[1].result(60)
    assert not engine.alive
    engine.close()


def test_measuring_a_drafters_costs_counts_in_no_timing(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def slowly(target: TargetModel, drafter: Drafter[Any]) -> Costs:
        asked.append(drafter.name)
        time.sleep(2.0)
        return measure_costs(target, drafter)

    monkeypatch.setattr(engine_module, "measure_costs", slowly)
    request = Request(video_messages(seed=1), max_new_tokens=4)
    with Engine(tiny_target, None, EngineConfig(max_model_tokens=256)) as engine:
        modes = [
            DecodeMode(SparrowDrafter.untrained(tiny_target), None, Sampling()),
            DecodeMode(None, None, Sampling()),
        ]
        governed, alone = (ticket.result() for ticket in engine.submit_modes(request, modes))
    assert asked == ["sparrow"] and governed.token_ids == alone.token_ids
    assert governed.timings.decode_s < 2.0
