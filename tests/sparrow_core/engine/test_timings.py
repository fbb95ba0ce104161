"""Where the seconds of a completion went: each stage's own, to the last one, on a clock that only stages move."""

import math

import pytest

from sparrow_core.config import DraftConfig, EngineConfig, PrefillConfig, Sampling
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine import engine as engine_module
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.types import Request, Timings
from tests.conftest import video_messages
from tests.sparrow_core.stage_clock import CHUNK_S, LOGITS_S, PASS_S, VISION_S, TimedDrafter, stage_clock

SHAPE = DraftConfig.chain(3)
CHUNK = 8
OPEN_S, PROPOSE_S = 500.0, 50.0
CONFIG = EngineConfig(SHAPE, PrefillConfig(CHUNK, slice_ms=0), max_model_tokens=256, max_sequences=2, arena_tokens=512)


@pytest.mark.parametrize("slice_ms", [0, 10**9])
def test_every_stage_has_its_own_time(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch, slice_ms: float
) -> None:
    config = EngineConfig(SHAPE, PrefillConfig(CHUNK, slice_ms), max_model_tokens=256)
    with Engine(tiny_target, None, config) as engine:
        drafter = TimedDrafter(stage_clock(tiny_target, monkeypatch), [OPEN_S], [PROPOSE_S])
        mode = DecodeMode(drafter, SHAPE, Sampling())
        request = Request(video_messages(), max_new_tokens=10)
        drafted, alone = (
            ticket.result(60) for ticket in engine.submit_modes(request, [mode, DecodeMode(None, None, Sampling())])
        )
    rounds, chunks = drafted.stats.rounds, math.ceil(drafted.prompt_tokens / CHUNK)
    assert rounds and chunks > 1
    verify_s = PASS_S + LOGITS_S
    assert drafted.timings == Timings(
        vision_s=VISION_S,
        prefill_s=chunks * CHUNK_S + LOGITS_S,  # the first token is prefill's
        drafter_prefill_s=OPEN_S,
        draft_s=rounds * PROPOSE_S,
        verify_s=rounds * verify_s,
        decode_s=OPEN_S + rounds * (PROPOSE_S + verify_s),
    )
    assert alone.timings == Timings(
        vision_s=VISION_S,
        prefill_s=chunks * CHUNK_S + LOGITS_S,
        verify_s=alone.stats.rounds * verify_s,
        decode_s=alone.stats.rounds * verify_s,
    )


def test_a_round_of_two_is_shared_by_them(tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PATIENCE_S", 20.0)  # the second joins at once, however slow this machine is
    with Engine(tiny_target, None, CONFIG) as engine:
        drafter = TimedDrafter(stage_clock(tiny_target, monkeypatch), [0.0], [PROPOSE_S])
        mode = DecodeMode(drafter, SHAPE, Sampling())
        tickets = [
            engine.submit_modes(Request(video_messages(seed), max_new_tokens=20), [mode])[0] for seed in range(2)
        ]
        first, second = (ticket.result(60) for ticket in tickets)
    num_rounds = len(drafter.batches)
    assert drafter.batches.count(2) > 5
    assert first.timings.draft_s + second.timings.draft_s == pytest.approx(num_rounds * PROPOSE_S)
    assert first.timings.verify_s + second.timings.verify_s == pytest.approx(num_rounds * (PASS_S + LOGITS_S))


def test_a_prompt_that_is_given_up_tells_what_it_took_so_far(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(tiny_target, None, CONFIG) as engine:
        clock = stage_clock(tiny_target, monkeypatch)
        ticket = engine.submit(Request(video_messages(num_frames=60), max_new_tokens=5))
        chunks, forward = [], tiny_target.forward_by_layer

        def giving_up(*arguments: object) -> object:
            chunks.append(clock.now)
            if len(chunks) == 3:
                ticket.cancel()
            return (yield from forward(*arguments))  # type: ignore[arg-type]

        monkeypatch.setattr(tiny_target, "forward_by_layer", giving_up)
        completion = ticket.result(60)
    assert (completion.finish_reason, completion.token_ids) == ("cancelled", ())
    assert completion.timings == Timings(vision_s=VISION_S, prefill_s=3 * CHUNK_S)
