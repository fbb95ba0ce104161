"""From a prompt to what distillation keeps of it: the target writes its own caption, then reads it once with taps.

Owns on-policy sampling and the one pass that yields states. It knows neither storage nor who asks.

Shape letters: S sequence slots (prompt and caption), R rows of one chunk, A position axes, M bridge tokens, D hidden
size, V vocabulary.
"""

import numpy as np
import torch

from sparrow_core.config import CaptureConfig
from sparrow_core.decoding.attention import causal_mask
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.cache import KVCache
from sparrow_core.distill.states import WindowStates
from sparrow_core.distill.store import StoreHeader, TargetTables
from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.types import Sampling

PREFILL_CHUNK = 256


def target_tables(target: TargetModel) -> TargetTables:
    """Embedding and lm_head as plain matrices, read off through the target's own functions."""
    info = target.info
    with torch.inference_mode():
        embed_tokens_VD = target.embed_tokens(torch.arange(info.vocab_size, device=info.device))
        lm_head_DV = target.logits(torch.eye(info.hidden_size, device=info.device, dtype=info.dtype))
    return TargetTables(embed_tokens_VD.float().cpu().clone(), lm_head_DV.T.float().cpu().contiguous())


def store_header(target: TargetModel, config: CaptureConfig, settings: str) -> StoreHeader:
    """What identifies a capture from `target`; `settings` is a digest of everything that decides the windows."""
    return StoreHeader(
        fingerprint=target.info.fingerprint,
        tokenizer_hash=target.info.tokenizer_hash,
        hidden_size=target.info.hidden_size,
        vocab_size=target.info.vocab_size,
        bridge_layer=bridge_layer(target, config),
        settings=settings,
    )


def bridge_layer(target: TargetModel, config: CaptureConfig) -> int:
    """m*, counted from 1: the configured layer, or half of the target's layers (METHOD: IVSB)."""
    return config.bridge_layer or target.info.num_layers // 2


def window_sampling(config: CaptureConfig, index: int) -> Sampling:
    """How window `index` is captioned: its own seed, and greedily for a share of the windows spread over the set."""
    greedy = np.random.default_rng((config.seed, index)).random() < config.greedy_share
    return Sampling(temperature=0.0 if greedy else config.temperature, seed=config.seed * 1_000_003 + index)


def capture_window(target: TargetModel, prompt: Prompt, index: int, config: CaptureConfig) -> WindowStates:
    """Let the target caption `prompt`, then keep its states of prompt and caption."""
    caption_ids = generate_autoregressively(target, prompt, window_sampling(config, index), config.max_new_tokens)
    return read_window(target, prompt, caption_ids, bridge_layer(target, config), config.max_bridge_tokens)


@torch.inference_mode()
def read_window(
    target: TargetModel, prompt: Prompt, caption_ids: tuple[int, ...], layer: int, max_bridge_tokens: int
) -> WindowStates:
    """One pass over prompt and caption: final-norm states of the text, states of `layer` at some visual positions."""
    info = target.info
    embedded = target.embed(prompt)
    caption_C = torch.tensor(caption_ids, device=info.device)
    num_prompt, num_caption = prompt.token_ids_S.numel(), len(caption_ids)
    num_tokens = num_prompt + num_caption
    places_C = torch.arange(num_prompt, num_tokens, device=info.device) + embedded.position_offset
    embeddings_SD = torch.cat([embedded.embeddings_SD, target.embed_tokens(caption_C)])
    positions_AS = torch.cat([embedded.positions_AS, places_C.expand(info.position_axes, -1)], 1)
    is_text_S = torch.cat([prompt.is_text_S.cpu(), torch.ones(num_caption, dtype=torch.bool)])
    cache = KVCache(
        info.num_layers, info.num_kv_heads, info.head_dim, num_tokens, device=info.device, dtype=info.dtype
    )
    states, bridge = [], []
    for start in range(0, num_tokens, PREFILL_CHUNK):
        chunk = slice(start, min(start + PREFILL_CHUNK, num_tokens))
        num_rows = chunk.stop - chunk.start
        visible_RR = causal_mask(num_rows, info.device)
        result = target.forward(embeddings_SD[chunk], positions_AS[:, chunk], cache, visible_RR, tap_layers=(layer,))
        cache.commit(list(range(num_rows)))
        is_text_R = is_text_S[chunk]
        states.append(result.states_RD.cpu()[is_text_R])
        bridge.append(result.taps[layer].cpu()[~is_text_R])
    token_ids_S = torch.cat([prompt.token_ids_S.cpu(), caption_C.cpu()])
    return WindowStates(
        token_ids_L=token_ids_S[is_text_S],
        states_LD=torch.cat(states),
        is_caption_L=(torch.arange(num_tokens) >= num_prompt)[is_text_S],
        bridge_MD=_evenly(torch.cat(bridge), max_bridge_tokens),
    )


def _evenly(states_MD: torch.Tensor, limit: int) -> torch.Tensor:
    """At most `limit` rows, evenly spread and in order."""
    if len(states_MD) <= limit:
        return states_MD
    return states_MD[torch.linspace(0, len(states_MD) - 1, limit).round().long()]
