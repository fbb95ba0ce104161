"""Synthetic targets: a real checkpoint's size with random weights. The time of a pass does not depend on weights."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerBase, Qwen2_5_VLConfig

from sparrow_core.media.patches import PatchSpec
from sparrow_core.targets.qwen2_5_vl import Qwen25VLTarget


@dataclass(frozen=True)
class Geometry:
    """Sizes of a language model with Qwen2's layers."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int


# The language model of Qwen2.5-VL-7B (model card); that of LLaVA-OneVision-7B differs by 512 rows of the vocabulary.
GEOMETRIES = {"7b": Geometry(28, 3584, 18_944, 28, 4, 152_064)}


def random_target(
    geometry: Geometry, tokenizer: PreTrainedTokenizerBase, *, device: torch.device, dtype: torch.dtype
) -> Qwen25VLTarget:
    """A Qwen2.5-VL of this size, initialised by the library on the device. The vision tower is a layer of width 64."""
    head_dim = geometry.hidden_size // geometry.num_heads
    temporal, spatial = head_dim // 8, head_dim // 16 * 3
    text = {
        "vocab_size": geometry.vocab_size,
        "hidden_size": geometry.hidden_size,
        "intermediate_size": geometry.intermediate_size,
        "num_hidden_layers": geometry.num_layers,
        "num_attention_heads": geometry.num_heads,
        "num_key_value_heads": geometry.num_kv_heads,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [temporal, spatial, spatial],
        },
        "bos_token_id": 0,
        "eos_token_id": 0,
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 1,
        "fullatt_block_indexes": [0],
    }
    special: dict[str, Any] = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        )
    }
    vision["out_hidden_size"] = geometry.hidden_size
    config: Any = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **special)
    torch.manual_seed(0)
    with device:
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return Qwen25VLTarget(model, tokenizer, PatchSpec(), "synthetic")
