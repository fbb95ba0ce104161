"""Passes that are not batch-invariant: near-ties are found and decided alone; tokens stay those of the loop."""

import pytest
import torch

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.near_ties import SAFETY, first_in_doubt
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.engine.batch_invariance import batch_deviation
from sparrow_core.engine.engine import Engine
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request, Sampling
from tests.conftest import video_messages

NOISE = 0.05


@pytest.fixture
def noisy_target(tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> TargetModel:
    """The tiny target with logits that are off by up to `NOISE` wherever a pass has more than one row."""
    exact = tiny_target.logits

    def off(hidden: torch.Tensor) -> torch.Tensor:
        logits = exact(hidden)
        if len(logits) == 1:
            return logits
        spread = torch.rand(logits.shape, generator=torch.Generator().manual_seed(len(logits)))
        return logits + NOISE * (2 * spread - 1)

    monkeypatch.setattr(tiny_target, "logits", off)
    return tiny_target


def test_batch_deviation_finds_the_noise_and_its_absence(noisy_target: TargetModel) -> None:
    assert NOISE * 0.9 < batch_deviation(noisy_target) <= NOISE * 1.01
    # Products of the demo target's size are batch-invariant; the tiny target's are too small for that.
    assert batch_deviation(load_target("demo/weights/target", device="cpu")) == 0


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, 0.95, 50, 3), Sampling(1.0, seed=8)])
def test_tokens_stay_those_of_the_loop(noisy_target: TargetModel, sampling: Sampling) -> None:
    doubts = 0
    config = EngineConfig(DraftConfig.chain(4), max_model_tokens=256, max_sequences=3)
    with Engine(noisy_target, PromptLookupDrafter(noisy_target.info.vocab_size), config) as engine:
        requests = [Request(video_messages(seed=seed), sampling, 40) for seed in range(3)]
        for request, ticket in [(request, engine.submit(request)) for request in requests]:
            completion = ticket.result(60)
            prompt = noisy_target.build_prompt(request.messages)
            assert completion.token_ids == generate_autoregressively(noisy_target, prompt, sampling, 40)
            doubts += completion.stats.in_doubt
    assert doubts > 0


def test_doubt_is_about_the_best_two() -> None:
    logits = torch.tensor([[5.0, 0.0, 0.0], [5.0, 4.8, 0.0], [5.0, 4.9, 0.0]])
    assert first_in_doubt(logits, Sampling(), 1, 0.0) is None
    assert first_in_doubt(logits, Sampling(), 1, 0.3 / SAFETY) == 1
    assert first_in_doubt(logits, Sampling(), 1, 0.15 / SAFETY) == 2
    assert first_in_doubt(logits, Sampling(1.0, rule="rejection"), 1, 1.0) is None


def test_doubt_is_about_the_filters_too() -> None:
    """The winner is far ahead by its noise, but top-k barely keeps it, or barely excludes a token that would win."""
    logits = torch.tensor([[3.0, 2.0, 1.995, -9.0]])
    found = {seed: first_in_doubt(logits, Sampling(1.0, top_k=2, seed=seed), 1, 0.001) for seed in range(200)}
    free = {seed: first_in_doubt(logits, Sampling(1.0, seed=seed), 1, 0.001) for seed in range(200)}
    assert sum(value == 0 for value in found.values()) > 60 > 10 > sum(value == 0 for value in free.values())
