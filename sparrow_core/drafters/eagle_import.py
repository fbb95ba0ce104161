"""Import of published EAGLE-family drafters that read the target's hidden states at text alone (Sparrow's among them).

Tensors are recognised by the names in the released checkpoints. `embed_tokens` is dropped, since the target has it;
numbers of heads and widths follow from the shapes; missing biases are zero.
"""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sparrow_core.decoding.target import TargetInfo
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.errors import CheckpointError

FILES = ("model.safetensors", "pytorch_model.bin")
_OPTIONAL = ("fc.bias", *(f"layers.0.self_attn.{name}_proj.bias" for name in "qkv"))


def import_drafter(folder: Path, info: TargetInfo) -> SparrowDrafterModel:
    """The drafter published in `folder`, for the target that it was trained for.

    Raises CheckpointError if the tensors are not those of a one-layer drafter of that target's width.
    """
    tensors = _tensors(folder)
    embedding = tensors.pop("embed_tokens.weight", None)
    if embedding is not None and embedding.shape != (info.vocab_size, info.hidden_size):
        raise CheckpointError(
            f"the drafter at {folder} reads embeddings of shape {tuple(embedding.shape)}, but the target has "
            f"{(info.vocab_size, info.hidden_size)}: it belongs to another target"
        )
    config = _config(tensors, folder, info)
    model = SparrowDrafterModel(config)
    for name in _OPTIONAL:
        tensors.setdefault(name, torch.zeros_like(model.state_dict()[name]))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} is no one-layer drafter of the EAGLE family: {error}") from error
    return model


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    for name in FILES:
        if (folder / name).exists():
            try:
                if name.endswith(".bin"):
                    return dict(torch.load(folder / name, map_location="cpu", weights_only=True))
                return load_file(folder / name)
            except (OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
                raise CheckpointError(f"{folder / name} cannot be read: {error}") from error
    raise CheckpointError(f"{folder} holds none of {', '.join(FILES)}")


def _config(tensors: dict[str, torch.Tensor], folder: Path, info: TargetInfo) -> DrafterConfig:
    def rows(name: str) -> int:
        if name not in tensors:
            raise CheckpointError(f"{folder} has no tensor {name}; it has {', '.join(sorted(tensors))}")
        return tensors[name].shape[0]

    width = rows("fc.weight")
    if width != info.hidden_size:
        raise CheckpointError(f"the drafter at {folder} is {width} wide, but the target is {info.hidden_size}")
    return DrafterConfig(
        target_fingerprint=info.fingerprint,
        tokenizer_hash=info.tokenizer_hash,
        hidden_size=width,
        intermediate_size=rows("layers.0.mlp.gate_proj.weight"),
        num_heads=rows("layers.0.self_attn.q_proj.weight") // info.head_dim,
        num_kv_heads=rows("layers.0.self_attn.k_proj.weight") // info.head_dim,
        head_dim=info.head_dim,
        rms_norm_eps=info.rms_norm_eps,
        rope_theta=info.rope_theta,
        bridge_layer=info.num_layers // 2,
        has_bridge_norm=False,
    )
