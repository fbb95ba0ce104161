"""Captured windows against the oracle loop and against plain passes of the target."""

import pytest
import torch

from sparrow_core.config import CaptureConfig
from sparrow_core.decoding.anchors import text_slots
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.target import SequenceRows, TargetModel
from sparrow_core.distill.capture import capture_window, target_tables, window_samplings
from tests.conftest import video_messages

CONFIG = CaptureConfig(captions_per_window=3, max_new_tokens=10, greedy_share=0.5, max_bridge_tokens=5, seed=2)


@pytest.fixture(scope="module")
def prompt(tiny_target: TargetModel):
    return tiny_target.build_prompt(video_messages(seed=3, num_frames=8))


def test_captions_are_those_of_the_one_row_loop(tiny_target: TargetModel, prompt) -> None:
    samplings = window_samplings(CONFIG, index=4)
    assert {sampling.temperature for sampling in samplings} == {0.0, 1.0}
    windows = capture_window(tiny_target, prompt, 4, CONFIG)
    for window, sampling in zip(windows, samplings, strict=True):
        alone = generate_autoregressively(tiny_target, prompt, sampling, CONFIG.max_new_tokens)
        assert tuple(window.token_ids_L[window.is_caption_L].tolist()) == alone


@torch.inference_mode()
def test_states_are_those_of_one_plain_pass(tiny_target: TargetModel, prompt) -> None:
    info = tiny_target.info
    for window in capture_window(tiny_target, prompt, 1, CONFIG):
        caption = window.token_ids_L[window.is_caption_L]
        embedded = tiny_target.embed(prompt)
        num_prompt, num_tokens = len(prompt.token_ids_S), len(prompt.token_ids_S) + len(caption)
        places = torch.arange(num_prompt, num_tokens) + embedded.position_offset
        rows = SequenceRows(info.cache_shape.cache(num_tokens), num_tokens)
        result = tiny_target.forward(
            torch.cat([embedded.embeddings_SD, tiny_target.embed_tokens(caption)]),
            torch.cat([embedded.positions_AS, places.expand(info.position_axes, -1)], 1),
            (rows,),
            tap_layers=(1,),
        )
        is_text = torch.cat([prompt.is_text_S, torch.ones(len(caption), dtype=torch.bool)])
        # One pass against two: float32 sums in another order.
        torch.testing.assert_close(window.states_LD, result.states_RD[text_slots(is_text)], atol=1e-4, rtol=1e-4)
        visual = result.taps[1][~is_text]
        assert len(visual) > 5
        kept = torch.linspace(0, len(visual) - 1, 5).round().long()
        torch.testing.assert_close(window.bridge_MD, visual[kept], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_tables_reproduce_embedding_and_logits(tiny_target: TargetModel) -> None:
    tables = target_tables(tiny_target)
    states = torch.randn(4, tiny_target.info.hidden_size)
    ids = torch.tensor([0, 5, 9])
    assert torch.equal(tables.embed_tokens_VD[ids], tiny_target.embed_tokens(ids))
    torch.testing.assert_close(states @ tables.lm_head_VD.T, tiny_target.logits(states), atol=1e-4, rtol=1e-4)
