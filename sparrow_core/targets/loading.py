"""Loading, where a family of targets is added (`_FAMILIES`): from a folder or hub id to a target, and its memory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from sparrow_core.decoding.target import TargetModel
from sparrow_core.errors import CheckpointError, ConfigError
from sparrow_core.media.frame_spec import FrameSpec
from sparrow_core.targets.family import FamilyTarget
from sparrow_core.targets.llava_onevision import LlavaOnevisionTarget
from sparrow_core.targets.qwen2_5_vl import Qwen25VLTarget

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_FAMILIES: dict[str, type[FamilyTarget[Any]]] = {
    "qwen2_5_vl": Qwen25VLTarget,
    "llava_onevision": LlavaOnevisionTarget,
}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a target will take: its weights, and the keys and values of `max_tokens` slots."""

    weights_bytes: int
    kv_bytes: int


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA if available, else the CPU. Raises ConfigError for an unknown device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is not one of auto, cpu, cuda, cuda:0, cuda:1 ...") from error


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 on a CPU. Raises ConfigError for an unknown dtype."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def read_config(source: str) -> PreTrainedConfig:
    """The checkpoint's config. Raises CheckpointError if it has none or its family is not supported."""
    if not Path(source).exists() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise CheckpointError(f"there is no folder {source!r}; give a checkpoint folder or a hub id such as org/name")
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no usable model config at {source!r}: {error}") from error
    if config.model_type not in _FAMILIES:
        raise CheckpointError(f"{source!r} is of family {config.model_type!r}; supported are {', '.join(_FAMILIES)}")
    return config


def estimate_memory(source: str, *, dtype: str = "auto", device: str = "auto", max_tokens: int) -> MemoryEstimate:
    """The memory that `load_target` and a cache of `max_tokens` slots would take, from the config alone."""
    config = read_config(source)
    with torch.device("meta"):
        num_parameters = sum(p.numel() for p in _FAMILIES[config.model_type].model_class(config).parameters())
    itemsize = resolve_dtype(dtype, resolve_device(device)).itemsize
    text = config.get_text_config()
    head_dim = text.hidden_size // text.num_attention_heads
    kv_per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * itemsize
    return MemoryEstimate(num_parameters * itemsize, kv_per_token * max_tokens)


def read_frame_spec(source: str) -> FrameSpec:
    """What the checkpoint's vision tower asks of frames; no weights are loaded."""
    return _frame_spec(source, read_config(source))


def _frame_spec(source: str, config: PreTrainedConfig) -> FrameSpec:
    try:
        processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint at {source!r} has no usable image processor: {error}") from error
    return _FAMILIES[config.model_type].read_spec(config, processor)


def load_target(source: str, *, device: str = "auto", dtype: str = "auto") -> TargetModel:
    """Load a video LLM for decoding.

    Raises CheckpointError if the checkpoint is missing, incomplete or of another family, ConfigError for an unknown
    device or dtype or a checkpoint with sliding-window attention.
    """
    config = read_config(source)
    family = _FAMILIES[config.model_type]
    on = resolve_device(device)
    try:
        model = family.model_class.from_pretrained(source, dtype=resolve_dtype(dtype, on)).to(on)
        tokenizer = _tokenizer(source)
    except OSError as error:
        raise CheckpointError(f"the checkpoint at {source!r} is incomplete: {error}") from error
    name = Path(source).name if Path(source).exists() else source
    return family(model, tokenizer, _frame_spec(source, config), name)


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer with its chat template, which older checkpoints keep in a file of the processor."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    if not tokenizer.chat_template:
        file = cached_file(source, "chat_template.json", _raise_exceptions_for_missing_entries=False)
        if file is None:
            raise CheckpointError(f"the checkpoint at {source!r} has no chat template; add a chat_template.jinja")
        tokenizer.chat_template = json.loads(Path(file).read_text())["chat_template"]
    return tokenizer
