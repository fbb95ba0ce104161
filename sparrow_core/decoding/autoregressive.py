"""The autoregressive loop, the oracle: one token per step, one row per pass. Speculative decoding must give its tokens.

Shape letters: A axes of a position, D hidden size, R rows of a pass (always 1 here), S slots of a sequence.
"""

import torch

from sparrow_core.config import PrefillConfig
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.prefill import PREFILL, first_token, prefill
from sparrow_core.decoding.sampling import choose
from sparrow_core.decoding.target import Prompt, SequenceRows, TargetModel
from sparrow_core.types import Sampling


@torch.inference_mode()
def generate_autoregressively(
    target: TargetModel,
    prompt: Prompt,
    sampling: Sampling,
    max_new_tokens: int,
    prefill_config: PrefillConfig = PREFILL,
) -> tuple[int, ...]:
    """Generated token ids: up to and including the first stop token, at most `max_new_tokens`.

    Raises ConfigError if the prompt has no text token.
    """
    info = target.info
    capacity = prompt.token_ids_S.numel() + max_new_tokens
    cache = info.cache_shape.cache(capacity)
    embedded = target.embed(prompt)
    context = prefill(target, prompt, embedded, cache, prefill_config)
    tokens = [first_token(target, context, sampling)]
    while tokens[-1] not in info.stop_token_ids and len(tokens) < max_new_tokens:
        hidden_1D = decode_one(target, cache, embedded.position_offset, tokens[-1])
        position_1 = torch.tensor([len(tokens)], device=info.device)
        tokens.append(int(choose(target.logits(hidden_1D), sampling, position_1)))
    return tuple(tokens)


def decode_one(target: TargetModel, cache: KVCache, position_offset: int, token: int) -> torch.Tensor:
    """One step of the autoregressive loop: pass one row alone and commit it -> its final-norm hidden state [1, D]."""
    info = target.info
    token_1 = torch.tensor([token], device=info.device)
    position_A1 = torch.full((info.position_axes, 1), cache.length + position_offset, device=info.device)
    rows = (SequenceRows(cache, num_rows=1),)
    hidden_1D = target.forward(target.embed_tokens(token_1), position_A1, rows).hidden_RD
    cache.commit([0])
    return hidden_1D
