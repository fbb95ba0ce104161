"""The engine on a CUDA device against its own one-row loop there. Skipped without one, unless one is required."""

import os
from pathlib import Path

import pytest
import torch

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Request, Sampling
from tests.conftest import video_messages

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() and os.environ.get("SPARROW_REQUIRE_GPU") != "1", reason="no CUDA device"
    ),
]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.9, top_p=0.95, seed=3)])
@pytest.mark.parametrize("shape", [DraftConfig.chain(4), DraftConfig(depth=4, width=3, total=12)])
def test_engine_equals_its_one_row_loop(tiny_checkpoint: Path, shape: DraftConfig, sampling: Sampling) -> None:
    target = load_target(str(tiny_checkpoint), device="cuda", dtype="float32")
    torch.manual_seed(0)
    drafter = SparrowDrafter.untrained(target)
    expected = generate_autoregressively(target, target.build_prompt(video_messages()), sampling, 40)
    with Engine(target, drafter, EngineConfig(draft=shape)) as engine:
        assert engine.submit(Request(video_messages(), sampling, 40)).result(60).token_ids == expected


def test_noise_is_the_same_on_every_device() -> None:
    from sparrow_core.decoding.noise import Stream, uniform

    counter = torch.arange(1000)
    assert torch.equal(uniform(5, Stream.TOKEN, counter), uniform(5, Stream.TOKEN, counter.cuda()).cpu())
