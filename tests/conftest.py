"""Shared fixtures: tiny real models of the real classes, made here from a seed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from demo.model import PREPROCESSOR_CONFIG, target_config
from demo.tokenizer import train_tokenizer
from sparrow_core.decoding.target import TargetModel
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Frames, Message

torch.set_num_threads(1)


def build_checkpoint(folder: Path, *, seed: int, logit_scale: float = 4.0) -> Path:
    """A random Qwen2.5-VL of 2 + 2 layers as a hub folder. `logit_scale` spreads its logits, as training would."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    tokenizer = train_tokenizer(num_captions=40)
    config = target_config(tokenizer)
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = ["full_attention"] * 2
    config.text_config.hidden_size, config.text_config.intermediate_size = 64, 96
    config.text_config.rope_parameters["mrope_section"] = [2, 3, 3]
    config.vision_config.depth, config.vision_config.hidden_size = 2, 32
    config.vision_config.intermediate_size, config.vision_config.out_hidden_size = 48, 64
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    for parameter in model.model.language_model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 3.0
    model.lm_head.weight.data *= logit_scale
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR_CONFIG))
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random target."""
    return build_checkpoint(tmp_path_factory.mktemp("target"), seed=0)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of another tiny target: same shapes and tokenizer, other weights."""
    return build_checkpoint(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def tiny_target(tiny_checkpoint: Path) -> TargetModel:
    """The tiny target, loaded in float32 on the CPU."""
    return load_target(str(tiny_checkpoint), device="cpu")


def random_frames(num_frames: int, height: int, width: int, seed: int = 0, fps: float = 2.0) -> Frames:
    """Noise frames with the times of a `fps` sampling."""
    pixels = np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    return Frames(pixels, tuple(i / fps for i in range(num_frames)), fps)


def video_messages(
    seed: int = 0, num_frames: int = 4, side: int = 56, prompt: str = "Describe."
) -> tuple[Message, ...]:
    """One user turn: a noise video, then a prompt."""
    return (Message("user", (random_frames(num_frames, side, side, seed), prompt)),)
