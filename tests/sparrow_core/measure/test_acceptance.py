"""Acceptance figures against hand counts, and against decoding with a known outcome."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import (
    WindowAcceptance,
    bootstrap_interval,
    depth_acceptance,
    measure_window,
    summarise,
)
from sparrow_core.targets.reference import load_reference, model_inputs
from sparrow_core.types import Request, Sampling
from tests.conftest import video_messages


def window(rounds: int, tokens: int, accepted: tuple[int, ...]) -> WindowAcceptance:
    return WindowAcceptance(64, rounds, tokens, accepted, entropy_sum=1.5, num_tokens=tokens + 1)


def test_summary_pools_rounds_of_all_windows() -> None:
    row = summarise("sparrow", "chain", "64", [window(3, 6, (1, 3, 2)), window(2, 1, (0, 4))])
    assert row.tau == 7 / 5 and row.windows == 2 and row.mean_visual_tokens == 64
    assert row.depth_acceptance == (2 / 3, 1 / 2, 1.0)
    assert math.isclose(row.mean_entropy, 3.0 / 9)
    assert row.tau_low <= row.tau <= row.tau_high


def test_interval_is_that_of_the_mean_for_equal_rounds() -> None:
    rng = np.random.default_rng(1)
    tokens, rounds = rng.normal(40, 8, 400), np.full(400, 10)
    low, high = bootstrap_interval(tokens, rounds)
    # Normal theory: 1.96 standard errors each side; 2,000 resamples give the ends to about 3 % of the width.
    half = 1.96 * tokens.std() / math.sqrt(400) / 10
    assert math.isclose(high - low, 2 * half, rel_tol=0.1) and low < tokens.mean() / 10 < high


def test_no_round_gives_no_figure() -> None:
    assert depth_acceptance([]) == () and depth_acceptance([[0, 0], [1]]) == ()
    assert math.isnan(summarise("none", "chain", "64", [window(0, 0, ())]).tau)
    with pytest.raises(ConfigError, match="bucket '64' has no window"):
        summarise("none", "chain", "64", [])


def test_entropy_of_the_written_tokens(tiny_target: TargetModel, tiny_checkpoint: Path) -> None:
    request = Request(video_messages(seed=1), max_new_tokens=6)
    prompt = tiny_target.build_prompt(request.messages)
    reference = load_reference(str(tiny_checkpoint), device=torch.device("cpu"), dtype=torch.float32)
    output = reference.generate(
        **model_inputs(prompt, reference),
        do_sample=False,
        max_new_tokens=6,
        output_logits=True,
        return_dict_in_generate=True,
    )
    caption = tuple(output.sequences[0, len(prompt.token_ids_S) :].tolist())
    expected = torch.distributions.Categorical(logits=torch.cat(output.logits)).entropy()
    with Engine(tiny_target, None) as engine:
        (found,) = measure_window(engine, request, [DecodeMode(None, None, Sampling())])
    assert found.num_tokens == len(caption)
    # Float32 through two different attention implementations.
    assert found.entropy_sum == pytest.approx(float(expected.sum()), rel=1e-3)


def test_real_decoding_counts_every_token(tiny_target: TargetModel) -> None:
    requests = [Request(video_messages(seed=seed), max_new_tokens=12) for seed in range(2)]
    drafters = (PromptLookupDrafter(tiny_target.info.vocab_size), None)
    modes = [DecodeMode(drafter, DraftConfig.chain(3), Sampling()) for drafter in drafters]
    with Engine(tiny_target, None) as engine:
        windows = [measure_window(engine, request, modes) for request in requests]
    lookup, undrafted = (summarise("any", "chain", "4", column) for column in zip(*windows, strict=True))
    assert undrafted.tau == 1.0 and undrafted.depth_acceptance == ()
    assert 1.0 <= lookup.tau <= 4.0
    assert lookup.mean_entropy == pytest.approx(undrafted.mean_entropy, rel=1e-5) and undrafted.mean_entropy > 0
