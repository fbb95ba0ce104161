"""LLaVA-OneVision against transformers' own model: frames, logits, captions, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from demo.tokenizer import train_tokenizer
from sparrow_core.config import DraftConfig, EngineConfig, FrameSamplingConfig, PrefillConfig
from sparrow_core.decoding.prefill import prefill
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.errors import ConfigError
from sparrow_core.media.siglip_frames import SiglipSpec, siglip_frames
from sparrow_core.media.timeline import plan_frames
from sparrow_core.targets import reference
from sparrow_core.targets.loading import load_target, read_frame_spec
from sparrow_core.types import Message, Request
from tests.conftest import random_frames

SIDE, PATCH = 56, 14  # 4 x 4 patches, pooled to 2 x 2 tokens a frame
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-OneVision of 2 + 2 layers as a hub folder, its chat template stored as in older checkpoints."""
    folder = tmp_path_factory.mktemp("llava")
    tokenizer = train_tokenizer(num_captions=40)
    text = {
        "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH, "vision_use_head": False,
    }  # fmt: skip
    config = LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config)
    for parameter in model.model.language_model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 3.0
    model.lm_head.weight.data *= 4.0
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def target(checkpoint: Path) -> TargetModel:
    return load_target(str(checkpoint), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def library(checkpoint: Path) -> torch.nn.Module:
    return reference.load_reference(str(checkpoint), device=CPU, dtype=torch.float32)


def messages(num_frames: int, seed: int = 0) -> tuple[Message, ...]:
    return (Message("user", (random_frames(num_frames, SIDE, SIDE, seed), "Describe.")),)


TWO_VIDEOS = (
    Message("user", (random_frames(3, SIDE, SIDE, 1), "and", random_frames(3, SIDE, SIDE, 2), "Compare.")),
    Message("assistant", ("They differ.",)),
    Message("user", ("How?",)),
)


def test_frames_agree_with_the_library() -> None:
    frames = random_frames(3, 384, 384).pixels_THWC
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
    processor = LlavaOnevisionImageProcessorPil(image_grid_pinpoints=[[384, 384]], **colours)
    expected = processor(images=list(frames), return_tensors="pt")["pixel_values"][:, 0]
    spec = SiglipSpec(mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7))
    torch.testing.assert_close(torch.from_numpy(siglip_frames(frames, spec)), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("chunk", [7, 512])
@pytest.mark.parametrize("layout", [messages(5), messages(1), TWO_VIDEOS, (Message("user", ("Hello.",)),)])
def test_prefill_agrees_with_the_library(
    target: TargetModel, library: torch.nn.Module, layout: tuple[Message, ...], chunk: int
) -> None:
    prompt = target.build_prompt(layout)
    with torch.inference_mode():
        expected = library(**reference.model_inputs(prompt, library)).logits[0, prompt.is_text_S]
        cache = target.info.cache_shape.cache(256)
        context = prefill(target, prompt, target.embed(prompt), cache, PrefillConfig(chunk))
        # float32 through two layers with another order of summation; logits are about 10.
        torch.testing.assert_close(target.logits(context.hidden_TD), expected, atol=2e-4, rtol=0)


def test_drafts_change_no_token(target: TargetModel, library: torch.nn.Module) -> None:
    torch.manual_seed(1)
    drafter = SparrowDrafter.untrained(target)
    with Engine(target, drafter, EngineConfig(DraftConfig(3, 3, 8), max_model_tokens=256)) as engine:
        for seed in range(3):
            request = Request(messages(4, seed), max_new_tokens=24)
            expected = reference.generate(library, target.build_prompt(request.messages), 24)
            assert engine.submit(request).result(60).token_ids == expected.token_ids


def test_frames_of_any_shape_become_squares_under_the_budget(checkpoint: Path) -> None:
    spec = read_frame_spec(str(checkpoint))
    plan = plan_frames(0.0, 10.0, 270, 480, FrameSamplingConfig(fps=2.0, max_visual_tokens=41), spec)
    assert (plan.height, plan.width, len(plan.times_s), plan.visual_tokens) == (SIDE, SIDE, 10, 41)
    assert SiglipSpec().tokens_per_step(384, 384) == 196


def test_what_it_does_not_take_is_refused(target: TargetModel) -> None:
    with pytest.raises(ConfigError, match="takes videos here, not images"):
        target.build_prompt((Message("user", (np.zeros((SIDE, SIDE, 3), np.uint8), "What?")),))
    with pytest.raises(ConfigError, match=r"uint8 \[T >= 1, 56, 56, 3\], got uint8 \[2, 28, 56, 3\]"):
        target.build_prompt((Message("user", (random_frames(2, 28, 56), "What?")),))
