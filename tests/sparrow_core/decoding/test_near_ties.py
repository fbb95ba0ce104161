"""Passes that are not batch-invariant: near-ties are found and decided alone; tokens stay those of the loop."""

import pytest
import torch

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.near_ties import SAFETY, first_in_doubt
from sparrow_core.decoding.sampling import choose, noisy_scores
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


def test_the_margin_is_ten_times_the_noise_of_one_row() -> None:
    """The best two may each be off by the noise, and what was measured is a sample: five times it is in doubt, twenty
    times it is not."""
    for sampling in (Sampling(), Sampling(1.0, seed=2)):
        scores_LV = noisy_scores(torch.zeros(1, 9), sampling, torch.tensor([1]))
        best, second = scores_LV[0].topk(2).values.tolist()
        gap = best - second if sampling.temperature else 1.0
        logits_LV = torch.zeros(1, 9) if sampling.temperature else torch.tensor([[1.0, 0.0]])
        assert first_in_doubt(logits_LV, sampling, 1, gap / 5) == 0
        assert first_in_doubt(logits_LV, sampling, 1, gap / 20) is None


@pytest.mark.parametrize("temperature", [0.25, 4.0])
@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.6}])
def test_temperature_scales_logits_and_their_noise_alike(temperature: float, filters: dict[str, float]) -> None:
    """Logits and noise of `temperature` times the size say the same at that temperature as the plain ones at 1."""
    logits_LV = 2 * torch.randn(1, 20, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for seed in range(60):
        plain = first_in_doubt(logits_LV, Sampling(1.0, seed=seed, **filters), 1, 0.02)  # type: ignore[arg-type]
        sampling = Sampling(temperature, seed=seed, **filters)  # type: ignore[arg-type]
        assert first_in_doubt(temperature * logits_LV, sampling, 1, temperature * 0.02) == plain
        found.append(plain)
    assert 3 < found.count(0) < 57


def test_the_first_of_several_doubts_counts() -> None:
    logits = torch.tensor([[5.0, 0.0], [5.0, 4.9], [5.0, 0.0], [5.0, 4.95]])
    assert first_in_doubt(logits, Sampling(), 1, 0.2 / SAFETY) == 1


def test_both_sides_of_a_filters_edge_are_in_doubt() -> None:
    """Of four tokens the best two are kept; the second and the third are level to within the noise."""
    logits_1V, position = torch.tensor([[3.0, 2.0, 1.9999, -9.0]]), torch.tensor([1])
    doubts: dict[tuple[int, int], set[int | None]] = {}
    for seed in range(150):
        sampling = Sampling(1.0, top_k=2, seed=seed)
        winner = int(choose(logits_1V, sampling, position))
        unfiltered = int(choose(logits_1V, Sampling(1.0, seed=seed), position))
        doubt = first_in_doubt(logits_1V, sampling, 1, 0.001)
        doubts.setdefault((winner, unfiltered), set()).add(doubt)
    # The last one that is kept might have been cut; the first one that is cut would have won; the best one is safe.
    assert doubts[1, 1] == doubts[0, 2] == doubts[1, 2] == {0}
    assert None in doubts[0, 0]
