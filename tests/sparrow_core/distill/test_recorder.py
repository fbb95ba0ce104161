"""Captured windows against our autoregressive loop and against plain passes of the target."""

import pytest
import torch

from sparrow_core.config import CaptureConfig, DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import decode_one, generate_autoregressively
from sparrow_core.decoding.prefill import prefill, text_slots
from sparrow_core.decoding.target import Prompt, SequenceRows, TargetModel
from sparrow_core.distill.hidden_states import CapturedWindow, training_example
from sparrow_core.distill.recorder import CaptionRecorder, bridge_layer, capture_samplings
from sparrow_core.distill.shards import StoreHeader
from sparrow_core.distill.target_tables import target_tables
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.errors import CheckpointError
from sparrow_core.types import Request
from tests.conftest import video_messages

CONFIG = CaptureConfig(
    captions_per_window=3, max_new_tokens=10, greedy_share=0.5, max_bridge_tokens=5, keep_embeddings=True, seed=2
)
REQUEST = Request(video_messages(seed=3, num_frames=8), max_new_tokens=CONFIG.max_new_tokens)


@pytest.fixture(scope="module")
def prompt(tiny_target: TargetModel) -> Prompt:
    return tiny_target.build_prompt(REQUEST.messages)


@pytest.fixture(scope="module", params=["alone", "drafted"])
def captured(tiny_target: TargetModel, request: pytest.FixtureRequest) -> CapturedWindow:
    """Window 4, its captions written without a drafter, and with one whose drafts are accepted in part."""
    drafter = SparrowDrafter.untrained(tiny_target) if request.param == "drafted" else None
    samplings = capture_samplings(CONFIG, index=4)
    recorders = [CaptionRecorder(1, CONFIG) for _ in samplings]
    modes = [DecodeMode(drafter, DraftConfig(3, 3, 9), s, r) for s, r in zip(samplings, recorders, strict=True)]
    with Engine(tiny_target, None, EngineConfig(max_model_tokens=512)) as engine:
        completions = [ticket.result() for ticket in engine.submit_modes(REQUEST, modes)]
    captions = [r.caption(c.token_ids) for r, c in zip(recorders, completions, strict=True)]
    return recorders[0].window(captions)


def test_captions_are_those_of_the_autoregressive_loop(
    tiny_target: TargetModel, prompt: Prompt, captured: CapturedWindow
) -> None:
    samplings = capture_samplings(CONFIG, index=4)
    assert {sampling.temperature for sampling in samplings} == {0.0, 1.0}
    for caption, sampling in zip(captured.captions, samplings, strict=True):
        alone = generate_autoregressively(tiny_target, prompt, sampling, CONFIG.max_new_tokens)
        assert tuple(caption.token_ids_C.tolist()) == alone


@torch.inference_mode()
def test_hidden_states_are_exactly_those_of_the_autoregressive_loop(
    tiny_target: TargetModel, prompt: Prompt, captured: CapturedWindow, request: pytest.FixtureRequest
) -> None:
    embedded = tiny_target.embed(prompt)
    cache = tiny_target.info.cache_shape.cache(len(prompt.token_ids_S) + CONFIG.max_new_tokens)
    context = prefill(tiny_target, prompt, embedded, cache)
    assert torch.equal(captured.prompt_hidden_TD, context.hidden_TD)
    for caption in captured.captions:
        cache.forget_generated()
        for token, hidden_D in zip(caption.token_ids_C.tolist(), caption.hidden_CD, strict=False):
            hidden_1D = decode_one(tiny_target, cache, embedded.position_offset, token)
            if request.node.callspec.params["captured"] == "alone":
                assert torch.equal(hidden_1D[0], hidden_D)
            # Passes of so small a model are not quite batch-invariant (`engine.batch_deviation`).
            torch.testing.assert_close(hidden_1D[0], hidden_D, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_everything_is_that_of_one_plain_pass(
    tiny_target: TargetModel, prompt: Prompt, captured: CapturedWindow
) -> None:
    info = tiny_target.info
    for number in range(len(captured.captions)):
        example = training_example(captured, number)
        caption = example.token_ids_E[example.is_caption_E]
        embedded = tiny_target.embed(prompt)
        num_prompt, num_tokens = len(prompt.token_ids_S), len(prompt.token_ids_S) + len(caption)
        positions = torch.arange(num_prompt, num_tokens) + embedded.position_offset
        rows = SequenceRows(info.cache_shape.cache(num_tokens), num_tokens)
        result = tiny_target.forward(
            torch.cat([embedded.embeddings_SD, tiny_target.embed_tokens(caption)]),
            torch.cat([embedded.positions_AS, positions.expand(info.position_axes, -1)], 1),
            (rows,),
            tap_layers=(1,),
        )
        is_text = torch.cat([prompt.is_text_S, torch.ones(len(caption), dtype=torch.bool)])
        assert torch.equal(example.slots_E, text_slots(is_text))
        # One pass against several: float32 sums in another order.
        torch.testing.assert_close(example.hidden_TD, result.hidden_RD[example.slots_E[:-1]], atol=1e-4, rtol=1e-4)
        visual_slots = (~is_text).nonzero()[:, 0]
        kept = visual_slots[torch.linspace(0, len(visual_slots) - 1, 5).round().long()]
        assert len(visual_slots) > 5 and torch.equal(example.bridge_slots_U, kept)
        torch.testing.assert_close(example.bridge_UD, result.taps[1][kept], atol=1e-4, rtol=1e-4)
        slots, embeddings = example.visual("embeddings")
        assert torch.equal(slots, visual_slots)
        assert torch.equal(embeddings, embedded.embeddings_SD[visual_slots])


@torch.inference_mode()
def test_tables_reproduce_embedding_and_logits(tiny_target: TargetModel) -> None:
    tables = target_tables(tiny_target)
    hidden = torch.randn(4, tiny_target.info.hidden_size)
    ids = torch.tensor([0, 5, 9])
    assert torch.equal(tables.embed_tokens_VD[ids], tiny_target.embed_tokens(ids))
    torch.testing.assert_close(hidden @ tables.lm_head_VD.T, tiny_target.logits(hidden), atol=1e-4, rtol=1e-4)
    assert StoreHeader.of(tiny_target, 1, "s").fingerprint == tiny_target.info.fingerprint


@pytest.mark.parametrize("layer", [0, 3, 99])
def test_a_layer_that_is_not_there_is_refused(tiny_target: TargetModel, layer: int) -> None:
    assert (
        bridge_layer(tiny_target.info, CaptureConfig()) == 1
        and bridge_layer(tiny_target.info, CaptureConfig(bridge_layer=2)) == 2
    )
    with pytest.raises(CheckpointError, match=f"bridge_layer={layer}, but .* has layers 1 to 2"):
        bridge_layer(tiny_target.info, CaptureConfig(bridge_layer=layer))
