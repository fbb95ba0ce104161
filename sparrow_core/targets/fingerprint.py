"""Fingerprints of a model: a hash of its weights, and one of its vocabulary and chat template.

Weights are sampled and rounded to bfloat16, so that a fingerprint costs little at any size and does not depend on
whether the checkpoint was loaded in float32, float16 or bfloat16.
"""

import hashlib

import torch
from transformers import PreTrainedTokenizerBase

_SAMPLES_PER_TENSOR = 64
_MAX_EXACT_FLOAT32 = 2**24  # float32 holds every integer up to here


def weights_fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits over the name, shape and 64 evenly spaced values of every parameter."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        precise = torch.float64 if flat.numel() > _MAX_EXACT_FLOAT32 else torch.float32
        spaced = torch.linspace(0, flat.numel() - 1, min(_SAMPLES_PER_TENSOR, flat.numel()), dtype=precise)
        index = spaced.long().to(flat.device)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(flat[index].bfloat16().cpu().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits over the serialised tokenizer and its chat template."""
    serialised = tokenizer.backend_tokenizer.to_str() + (tokenizer.chat_template or "")
    return hashlib.sha256(serialised.encode()).hexdigest()[:16]
