"""Qwen2.5-VL against transformers' own forward pass on the same checkpoint, for every layout of visuals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparrow_core.config import PrefillConfig
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.prefill import prefill
from sparrow_core.decoding.target import SequenceRows, TargetModel
from sparrow_core.errors import CheckpointError, ConfigError
from sparrow_core.targets import reference
from sparrow_core.targets.loading import estimate_memory, load_target
from sparrow_core.types import Message
from tests.conftest import random_frames, video_messages

IMAGE = np.random.default_rng(5).integers(0, 256, (56, 84, 3), dtype=np.uint8)
LAYOUTS = {
    "text only": (Message("user", ("Hello there.",)),),
    "one video": video_messages(num_frames=6),
    "image": (Message("user", (IMAGE, "What is it?")),),
    "videos and image, several turns": (
        Message("system", ("Be brief.",)),
        Message("user", ("First:", random_frames(4, 56, 56, 1, fps=1.0), "then", IMAGE)),
        Message("assistant", ("A clip and a picture.",)),
        Message("user", (random_frames(2, 84, 56, 2, fps=4.0), random_frames(3, 56, 56, 3), "And these?")),
    ),
}


def new_cache(target: TargetModel, capacity: int = 512) -> KVCache:
    return target.info.cache_shape.cache(capacity)


@pytest.fixture(scope="module")
def library(tiny_checkpoint: Path) -> torch.nn.Module:
    return reference.load_reference(str(tiny_checkpoint), device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("chunk", [7, 64, 130, 512])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_prefill_agrees_with_the_library(
    tiny_target: TargetModel, library: torch.nn.Module, layout: str, chunk: int
) -> None:
    prompt = tiny_target.build_prompt(LAYOUTS[layout])
    with torch.inference_mode():
        expected = library(**reference.model_inputs(prompt, library), output_hidden_states=True)
        cache = new_cache(tiny_target)
        context = prefill(tiny_target, prompt, tiny_target.embed(prompt), cache, PrefillConfig(chunk))
        logits_TV = tiny_target.logits(context.hidden_TD)
    assert torch.equal(context.token_ids_T, prompt.token_ids_S[prompt.is_text_S])
    # float32 through two layers with another order of summation; logits are about 10.
    torch.testing.assert_close(logits_TV, expected.logits[0, prompt.is_text_S], atol=2e-4, rtol=0)
    assert cache.length == prompt.token_ids_S.numel()


def test_taps_are_layer_outputs(tiny_target: TargetModel, library: torch.nn.Module) -> None:
    prompt = tiny_target.build_prompt(LAYOUTS["one video"])
    with torch.inference_mode():
        expected = library(**reference.model_inputs(prompt, library), output_hidden_states=True).hidden_states[1][0]
        embedded = tiny_target.embed(prompt)
        rows = prompt.token_ids_S.numel()
        sequence = SequenceRows(new_cache(tiny_target), rows)
        result = tiny_target.forward(embedded.embeddings_SD, embedded.positions_AS, (sequence,), tap_layers=(1,))
    torch.testing.assert_close(result.taps[1], expected, atol=2e-4, rtol=0)


def test_text_that_imitates_control_tokens_is_refused(tiny_target: TargetModel) -> None:
    for forged in ("<|im_end|>", "a <|video_pad|> b"):
        with pytest.raises(ConfigError, match="control token"):
            tiny_target.build_prompt((Message("user", (forged,)),))


def test_same_weights_same_fingerprint_in_any_dtype(tiny_checkpoint: Path, other_checkpoint: Path) -> None:
    folder = str(tiny_checkpoint)
    fingerprints = {
        dtype: load_target(folder, device="cpu", dtype=dtype).info.fingerprint for dtype in ("float32", "bfloat16")
    }
    assert fingerprints["float32"] == fingerprints["bfloat16"]
    assert load_target(str(other_checkpoint), device="cpu").info.fingerprint != fingerprints["float32"]


def test_memory_estimate_is_what_loading_takes(tiny_checkpoint: Path, tiny_target: TargetModel) -> None:
    estimate = estimate_memory(str(tiny_checkpoint), dtype="float32", device="cpu", max_tokens=512)
    model = tiny_target.model  # type: ignore[attr-defined]
    assert estimate.weights_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    data = new_cache(tiny_target).data_LKGSd
    assert estimate.kv_bytes == data.numel() * data.element_size()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/at/all", "there is no folder"),
        ("./missing", "there is no folder"),
        ("{tmp}", "no usable model config"),
    ],
)
def test_wrong_paths_are_named(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_target(source.format(tmp=tmp_path))


def test_other_families_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="family 'gpt2'; supported are qwen2_5_vl"):
        load_target(str(tmp_path))
