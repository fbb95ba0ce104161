"""Prefill, then rounds of draft -> verify -> commit: the speculative twin of `autoregressive.py`.

Shape letters: S prompt tokens, R rows of one pass, A axes of a position, D hidden size.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.anchors import text_slots
from sparrow_core.decoding.attention import causal_mask
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafting import DraftSession, TextContext, Turn
from sparrow_core.decoding.sampling import choose
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, TargetModel, TargetPass
from sparrow_core.decoding.tree import ancestors, depths
from sparrow_core.decoding.verify import verify
from sparrow_core.types import Sampling


def prefill(target: TargetModel, prompt: Prompt, embedded: EmbeddedPrompt, cache: KVCache, chunk: int) -> TextContext:
    """Fill `cache` with the prompt, `chunk` tokens at a time; return its text positions with their states."""
    text_states = [
        result.states_RD[is_text_R] for is_text_R, result in prefill_passes(target, prompt, embedded, cache, chunk)
    ]
    cache.seal_prompt()
    token_ids_T = prompt.token_ids_S[text_slots(prompt.is_text_S)].to(embedded.embeddings_SD.device)
    return TextContext(token_ids_T, torch.cat(text_states))


def prefill_passes(
    target: TargetModel,
    prompt: Prompt,
    embedded: EmbeddedPrompt,
    cache: KVCache,
    chunk: int,
    tap_layers: tuple[int, ...] = (),
) -> Iterator[tuple[torch.Tensor, TargetPass]]:
    """Fill `cache` chunk by chunk; yields which rows of a chunk are text (bool [R]), and its pass."""
    num_tokens, device = prompt.token_ids_S.numel(), embedded.embeddings_SD.device
    for start in range(0, num_tokens, chunk):
        window = slice(start, min(start + chunk, num_tokens))
        num_rows = window.stop - window.start
        yield (
            prompt.is_text_S[window].to(device),
            target.forward(
                embedded.embeddings_SD[window],
                embedded.positions_AS[:, window],
                cache,
                causal_mask(num_rows, device),
                tap_layers,
            ),
        )
        cache.commit(list(range(num_rows)))


def first_token(target: TargetModel, context: TextContext, sampling: Sampling) -> int:
    """The token that prefill itself decides on."""
    logits_1V = target.logits(context.states_TD[-1:])
    return int(choose(logits_1V, sampling, torch.zeros(1, dtype=torch.int64, device=logits_1V.device)))


@dataclass(frozen=True)
class RoundResult:
    """Tokens of one round (accepted ones, then the bonus) and what they cost."""

    token_ids: list[int]
    num_drafted: int
    draft_s: float
    verify_s: float


@torch.inference_mode()
def decode_round(
    target: TargetModel, cache: KVCache, session: DraftSession, position_offset: int, turn: Turn, shape: DraftConfig
) -> RoundResult:
    """Draft from `turn.root`, verify in one target pass, commit what was accepted."""
    started = time.perf_counter()
    draft = session.propose(turn, shape)
    drafted = time.perf_counter()
    device = cache.data_LKGSD.device
    depth_N = depths(draft.parents_N)
    axes = target.info.position_axes
    positions_AN = (depth_N + cache.length + position_offset).expand(axes, -1).to(device)
    visible_NN = None if len(draft) == 1 else ancestors(draft.parents_N).to(device)
    result = target.forward(target.embed_tokens(draft.tokens_N.to(device)), positions_AN, cache, visible_NN)
    verdict = verify(draft, target.logits(result.states_RD), turn.sampling, turn.position, turn.round_index)
    path = list(verdict.path)
    cache.commit(path)
    tokens = draft.tokens_N[path].tolist()
    session.commit(tokens, result.states_RD[path])
    verified = time.perf_counter()
    return RoundResult([*tokens[1:], verdict.bonus], len(draft) - 1, drafted - started, verified - drafted)
