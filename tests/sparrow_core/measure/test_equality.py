"""The equality check itself: it passes equal captions, and finds a verification that accepts too much."""

from pathlib import Path

import pytest
import torch

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding import verify as verify_module
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.constant import ConstantDrafter
from sparrow_core.measure.equality import EqualityCheck, EqualityResult, first_difference
from sparrow_core.types import Draft, Request, Sampling, Verdict
from tests.conftest import video_messages

REQUESTS = [
    Request(video_messages(seed=1), Sampling(), 12, "greedy"),
    Request(video_messages(seed=2, num_frames=6), Sampling(0.9, 0.95, 50, 3), 12, "sampled"),
]


def compare(checkpoint: Path, target: TargetModel) -> list[EqualityResult]:
    constant = ConstantDrafter([5, 6, 7], target.info.vocab_size, torch.device("cpu"))
    config = EngineConfig(max_model_tokens=256, max_sequences=2, arena_tokens=512)
    check = EqualityCheck(str(checkpoint), target, {"constant": constant}, {"chain": DraftConfig.chain(3)}, config)
    try:
        return [result for results in check.compare(REQUESTS) for result in results]
    finally:
        check.close()


def test_first_difference() -> None:
    assert first_difference((1, 2), (1, 2)) is None
    assert first_difference((1, 2), (1, 3)) == 1
    assert first_difference((1, 2), (1, 2, 3)) == 2


def test_equal_captions_pass(tiny_checkpoint: Path, tiny_target: TargetModel) -> None:
    results = compare(tiny_checkpoint, tiny_target)
    assert [result.window for result in results] == ["greedy", "sampled"]
    assert all(result.equal and result.num_tokens == 12 for result in results)


def test_a_verification_that_accepts_too_much_is_found_and_not_excused(
    tiny_checkpoint: Path, tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gullible(draft: Draft, choices_N: torch.Tensor) -> Verdict:
        return Verdict(tuple(range(len(draft))), int(choices_N[-1]))

    monkeypatch.setattr(verify_module, "match", gullible)
    results = compare(tiny_checkpoint, tiny_target)
    assert all(result.first_difference == 1 and not result.excused for result in results)
