"""What the engine tells a governor, and that it does what the governor says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from sparrow_core.config import DraftConfig, EngineConfig, Sampling
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine import engine as engine_module
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.governor import NO_DRAFT
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.types import Request
from tests.conftest import video_messages
from tests.sparrow_core.stage_clock import LOGITS_S, PASS_S, TimedDrafter, stage_clock

SHAPE = DraftConfig.chain(3)
PROPOSE_S = 50.0
CONFIG = EngineConfig(max_model_tokens=256, max_sequences=2, arena_tokens=512)


@dataclass
class Scripted:
    """A governor that always says the same, and writes down what it hears."""

    costs: Any
    shape: DraftConfig
    asked: list[list[int]] = field(default_factory=list)
    tokens: list[tuple[DraftConfig, int]] = field(default_factory=list)
    times: list[tuple[DraftConfig, list[int], float]] = field(default_factory=list)

    def choose(self, contexts: Sequence[int]) -> DraftConfig:
        self.asked.append(list(contexts))
        return self.shape

    def learn_tokens(self, shape: DraftConfig, num_tokens: int) -> None:
        self.tokens.append((shape, num_tokens))

    def learn_time(self, shape: DraftConfig, contexts: Sequence[int], seconds: float) -> None:
        self.times.append((shape, list(contexts), seconds))


@pytest.fixture
def governors(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    """Those that engines make; their costs are the name of the drafter that was measured."""
    made: list[Scripted] = []
    monkeypatch.setattr(engine_module, "measure_costs", lambda _, drafter: drafter.name)
    monkeypatch.setattr(engine_module, "Governor", partial(note, made, SHAPE))
    monkeypatch.setattr(
        engine_module, "PATIENCE_S", 20.0
    )  # who comes second joins at once, however slow this machine is
    return made


def note(made: list[Scripted], shape: DraftConfig, costs: Any) -> Scripted:
    """Make a governor that always says this shape."""
    made.append(Scripted(costs, shape))
    return made[-1]


def timed(target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> TimedDrafter:
    return TimedDrafter(stage_clock(target, monkeypatch), [0.0], [PROPOSE_S])


def test_it_hears_of_every_round(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch, governors: list[Scripted]
) -> None:
    with Engine(tiny_target, None, CONFIG) as engine:
        mode = DecodeMode(timed(tiny_target, monkeypatch), None, Sampling())
        (ticket,) = engine.submit_modes(Request(video_messages(), max_new_tokens=12), [mode])
        completion = ticket.result(60)
    (governor,) = governors
    stats, accepted = completion.stats, completion.stats.accepted_per_round
    assert stats.drafted == SHAPE.depth * stats.rounds
    assert governor.tokens == [(SHAPE, 1 + number) for number in accepted], "the bonus token counts"
    committed = [completion.prompt_tokens + sum(1 + n for n in accepted[:index]) for index in range(stats.rounds)]
    assert governor.asked == [[context] for context in committed]
    assert governor.times == [(SHAPE, [context], PROPOSE_S + PASS_S + LOGITS_S) for context in committed]


def test_it_is_asked_for_all_of_its_sequences_at_once(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch, governors: list[Scripted]
) -> None:
    with Engine(tiny_target, None, CONFIG) as engine:
        mode = DecodeMode(timed(tiny_target, monkeypatch), None, Sampling())
        requests = [Request(video_messages(num_frames=frames), max_new_tokens=30) for frames in (4, 8)]
        tickets = [engine.submit_modes(request, [mode])[0] for request in requests]
        short, long = (ticket.result(60).prompt_tokens for ticket in tickets)
    (governor,) = governors
    pairs = [contexts for contexts in governor.asked if len(contexts) == 2]
    assert len(pairs) > 5 and all(short <= first and long <= second for first, second in pairs)
    assert [contexts for _, contexts, _ in governor.times] == governor.asked
    assert len(governor.tokens) == sum(map(len, governor.asked))


def test_a_round_that_others_share_says_nothing_of_its_time(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch, governors: list[Scripted]
) -> None:
    """The round takes as long as all of its drafts, which are not all of the governor's shape."""
    with Engine(tiny_target, None, CONFIG) as engine:
        drafter = timed(tiny_target, monkeypatch)
        free, fixed = (DecodeMode(drafter, shape, Sampling()) for shape in (None, DraftConfig.chain(1)))
        own_shape = engine.submit_modes(Request(video_messages(), max_new_tokens=200), [fixed])[0]
        governed = engine.submit_modes(Request(video_messages(seed=1), max_new_tokens=12), [free])[0]
        completion = governed.result(60)
        own_shape.cancel()
    (governor,) = governors
    assert len(governor.tokens) == completion.stats.rounds > 3
    assert governor.times == []


def test_where_it_says_so_the_drafter_is_not_asked(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch, governors: list[Scripted]
) -> None:
    monkeypatch.setattr(engine_module, "Governor", partial(note, governors, NO_DRAFT))
    with Engine(tiny_target, None, CONFIG) as engine:
        drafter = timed(tiny_target, monkeypatch)
        (ticket,) = engine.submit_modes(
            Request(video_messages(), max_new_tokens=12), [DecodeMode(drafter, None, Sampling())]
        )
        stats = ticket.result(60).stats
    (governor,) = governors
    assert (stats.drafted, stats.tau, drafter.batches) == (0, 1.0, [])
    assert governor.tokens == [(NO_DRAFT, 1)] * stats.rounds
    assert [(shape, seconds) for shape, _, seconds in governor.times] == [(NO_DRAFT, PASS_S + LOGITS_S)] * stats.rounds


def test_each_drafter_has_its_own(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch, governors: list[Scripted]
) -> None:
    with Engine(tiny_target, None, CONFIG) as engine:
        first, second = timed(tiny_target, monkeypatch), timed(tiny_target, monkeypatch)
        second.name = "another"
        modes = [DecodeMode(drafter, None, Sampling()) for drafter in (first, second, first)]
        for ticket in engine.submit_modes(Request(video_messages(), max_new_tokens=6), modes):
            ticket.result(60)
    assert [governor.costs for governor in governors] == ["timed", "another"]
    one, other = (len(governor.tokens) for governor in governors)
    assert one == 2 * other > 0
