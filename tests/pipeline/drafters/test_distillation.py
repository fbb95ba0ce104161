"""When a training begins, on which captions, and what is done again: without Ray, and without training."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.drafters import distillation
from pipeline.drafters.config import DistillRunConfig
from pipeline.drafters.distillation import DistillPolicy, DistillResult, distill
from pipeline.drafters.origin import TrainingWindows
from pipeline.drafters.ray_training import TrainingRun
from sparrow_core.decoding.target import TargetModel
from sparrow_core.distill.shards import TABLES_FILE, shard_file, shard_name, tables_file
from sparrow_core.drafters.network import SparrowDrafterModel
from sparrow_core.types import Request
from tests.sparrow_core.distill.toys import HEADER, captured_window, random_tables


class Trainings(list[TrainingRun]):
    """Notes trainings instead of running them; the first ones may be interrupted."""

    def __init__(self, interrupted: int = 0) -> None:
        super().__init__()
        self._interrupted = interrupted

    def __call__(self, run: TrainingRun) -> SparrowDrafterModel:
        self.append(run)
        if len(self) <= self._interrupted:
            raise KeyboardInterrupt
        return SparrowDrafterModel(run.geometry)


@pytest.fixture
def states(tmp_path: Path) -> Path:
    """A folder with two windows of two captions each."""
    folder = tmp_path / "states"
    folder.mkdir()
    (folder / TABLES_FILE).write_bytes(tables_file(random_tables(), HEADER))
    for name in ("a", "b"):
        capture(folder, name)
    return folder


def capture(folder: Path, name: str) -> None:
    window = captured_window(seed=ord(name), prompt=4, captions=[6, 7])
    (folder / shard_name(name)).write_bytes(shard_file(window, HEADER))


def run(
    monkeypatch: pytest.MonkeyPatch, target: TargetModel, states: Path, trainings: Trainings, policy: DistillPolicy
) -> DistillResult:
    info = replace(target.info, fingerprint=HEADER.fingerprint, tokenizer_hash=HEADER.tokenizer_hash)
    monkeypatch.setattr(distillation, "_target_info", lambda config: info)
    monkeypatch.setattr(distillation, "train_drafter", trainings)
    windows = TrainingWindows(lambda number: Request(()), {})
    return distill(DistillRunConfig("target", states=str(states)), windows, states.parent / "out", policy)


def test_a_training_begins_with_enough_new_captions_and_not_again(
    monkeypatch: pytest.MonkeyPatch, tiny_target: TargetModel, states: Path
) -> None:
    trainings = Trainings()
    few = run(monkeypatch, tiny_target, states, trainings, DistillPolicy(min_new_captions=5))
    assert (few.is_new, few.num_captions, few.num_waiting) == (False, 0, 4)
    assert not few.folder.exists() and not trainings
    made = run(monkeypatch, tiny_target, states, trainings, DistillPolicy(min_new_captions=4))
    assert (made.is_new, made.num_captions) == (True, 4) and (made.folder / "model.safetensors").exists()
    again = run(monkeypatch, tiny_target, states, trainings, DistillPolicy())
    assert (again.is_new, again.num_captions, again.num_waiting) == (False, 4, 0) and len(trainings) == 1
    capture(states, "c")
    more = run(monkeypatch, tiny_target, states, trainings, DistillPolicy(min_new_captions=2))
    assert (more.is_new, more.num_captions) == (True, 6) and trainings[0].name != trainings[1].name


def test_a_drafter_that_is_not_concluded_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, tiny_target: TargetModel, states: Path
) -> None:
    trainings = Trainings()
    run(monkeypatch, tiny_target, states, trainings, DistillPolicy())
    capture(states, "c")
    waiting = DistillPolicy(is_concluded=lambda folder: False)
    assert not run(monkeypatch, tiny_target, states, trainings, waiting).is_new
    assert run(monkeypatch, tiny_target, states, trainings, DistillPolicy()).is_new


def test_an_interrupted_training_goes_on_with_the_windows_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tiny_target: TargetModel, states: Path
) -> None:
    trainings = Trainings(interrupted=1)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tiny_target, states, trainings, DistillPolicy())
    capture(states, "c")
    made = run(monkeypatch, tiny_target, states, trainings, DistillPolicy(min_new_captions=100))
    assert (made.is_new, made.num_captions) == (True, 4)
    assert (
        trainings[0].name == trainings[1].name and trainings[1].source.num_captions == trainings[0].source.num_captions
    )
    rest = run(monkeypatch, tiny_target, states, trainings, DistillPolicy())
    assert (rest.is_new, rest.num_captions) == (True, 6), "what came meanwhile is learnt from next"


def test_an_interrupted_training_whose_windows_are_gone_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tiny_target: TargetModel, states: Path
) -> None:
    trainings = Trainings(interrupted=1)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tiny_target, states, trainings, DistillPolicy())
    (states / shard_name("a")).unlink()
    assert not run(monkeypatch, tiny_target, states, trainings, DistillPolicy(min_new_captions=3)).is_new
    assert run(monkeypatch, tiny_target, states, trainings, DistillPolicy(min_new_captions=2)).num_captions == 2


def test_another_target_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, tiny_target: TargetModel, states: Path
) -> None:
    trainings = Trainings()

    def refuse(fingerprint: str) -> None:
        raise ValueError(fingerprint)

    with pytest.raises(ValueError, match=HEADER.fingerprint):
        run(monkeypatch, tiny_target, states, trainings, DistillPolicy(refuse_target=refuse))
    assert not trainings
