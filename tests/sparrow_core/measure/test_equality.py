"""The check of losslessness itself: it passes what is equal, and finds a verification that accepts too much."""

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
        return [comparison for group in check.compare(REQUESTS) for comparison in group]
    finally:
        check.close()


def test_first_difference() -> None:
    assert first_difference((1, 2), (1, 2)) is None
    assert first_difference((1, 2), (1, 3)) == 1
    assert first_difference((1, 2), (1, 2, 3)) == 2


def test_equal_captions_pass(tiny_checkpoint: Path, tiny_target: TargetModel) -> None:
    comparisons = compare(tiny_checkpoint, tiny_target)
    assert [comparison.window for comparison in comparisons] == ["greedy", "sampled"]
    assert all(comparison.equal and comparison.num_tokens == 12 for comparison in comparisons)


def test_a_verification_that_accepts_too_much_is_found_and_not_excused(
    tiny_checkpoint: Path, tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gullible(draft: Draft, choices_N: torch.Tensor) -> Verdict:
        return Verdict(tuple(range(len(draft))), int(choices_N[-1]))

    monkeypatch.setattr(verify_module, "match", gullible)
    comparisons = compare(tiny_checkpoint, tiny_target)
    assert all(comparison.first_difference == 1 and not comparison.excused for comparison in comparisons)
