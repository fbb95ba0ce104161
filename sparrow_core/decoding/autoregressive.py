"""The oracle: one token a step, one row a pass, no draft. What speculative decoding must reproduce, kept plain."""

import torch

from sparrow_core.config import PrefillConfig
from sparrow_core.decoding.rounds import PREFILL, first_token, prefill, read_alone
from sparrow_core.decoding.sampling import choose
from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.types import Sampling


@torch.inference_mode()
def generate_autoregressively(
    target: TargetModel,
    prompt: Prompt,
    sampling: Sampling,
    max_new_tokens: int,
    prefill_config: PrefillConfig = PREFILL,
) -> tuple[int, ...]:
    """Generated token ids, up to and with the first stop token or `max_new_tokens`."""
    info = target.info
    capacity = prompt.token_ids_S.numel() + max_new_tokens
    cache = info.cache_shape.cache(capacity)
    embedded = target.embed(prompt)
    context = prefill(target, prompt, embedded, cache, prefill_config)
    tokens = [first_token(target, context, sampling)]
    while tokens[-1] not in info.stop_token_ids and len(tokens) < max_new_tokens:
        state_1D = read_alone(target, cache, embedded.position_offset, tokens[-1])
        position_1 = torch.tensor([len(tokens)], device=info.device)
        tokens.append(int(choose(target.logits(state_1D), sampling, position_1)))
    return tuple(tokens)
