"""Architecture of the demo target, a tiny Qwen2.5-VL, and its checkpoint folder. Knows nothing of training."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

NUM_LAYERS = 12
PREPROCESSOR_CONFIG = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "min_pixels": 28 * 28,
    "max_pixels": 28 * 28 * 1280,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Id of one token of the vocabulary."""
    return int(tokenizer.get_vocab()[token])


def target_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Configuration of the demo target for this tokenizer."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        # A smaller base than that of the full-sized models, to suit frames of few tokens and short captions.
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [8, 12, 12]},
        "initializer_range": 0.04,
        "bos_token_id": token_id(tokenizer, "<|endoftext|>"),
        "eos_token_id": token_id(tokenizer, "<|im_end|>"),
        "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
    }
    vision = {
        "depth": 4,
        "hidden_size": 160,
        "intermediate_size": 448,
        "num_heads": 4,
        "out_hidden_size": 256,
        "fullatt_block_indexes": [1, 3],
        "window_size": 112,
        "tokens_per_second": 2,
        "initializer_range": 0.04,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=False,
    )


def new_target(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A target with random weights. Output projections start small, which helps a deep and narrow stack to train."""
    torch.manual_seed(seed)
    config: Any = target_config(tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            depth = NUM_LAYERS if "language_model" in name else config.vision_config.depth
            weight.data /= (2 * depth) ** 0.5
    return model


def save_target(
    folder: Path, model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, card: str
) -> None:
    """Write the model as a hub folder in bfloat16; `card` becomes its README."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = deepcopy(model).bfloat16()
    config: Any = copy.config
    for part in (config.text_config, config.vision_config):
        part.dtype = torch.bfloat16  # else a model that was loaded in float32 would be declared as float32
    im_end, endoftext = token_id(tokenizer, "<|im_end|>"), token_id(tokenizer, "<|endoftext|>")
    copy.generation_config = GenerationConfig(
        bos_token_id=endoftext, pad_token_id=endoftext, eos_token_id=[im_end, endoftext], do_sample=False
    )
    copy.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # transformers makes it readable by its owner only
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR_CONFIG, indent=2) + "\n")
    (folder / "README.md").write_text(card)
