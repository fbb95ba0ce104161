"""Prefill, then rounds of draft -> verify -> commit for a batch: the speculative twin of `autoregressive.py`.

Shape letters: S prompt tokens, R rows of one pass, N nodes of one draft, A axes of a position, D hidden size.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparrow_core.config import DraftConfig, PrefillConfig
from sparrow_core.decoding.anchors import text_slots
from sparrow_core.decoding.attention import causal_mask
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafting import Drafter, DraftJob, DraftSession, TextContext, Turn
from sparrow_core.decoding.sampling import choose
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, SequenceRows, TargetModel, TargetPass
from sparrow_core.decoding.tree import ancestors, depths
from sparrow_core.decoding.verify import verify
from sparrow_core.types import Draft, Sampling

PREFILL = PrefillConfig()


def prefill(
    target: TargetModel, prompt: Prompt, embedded: EmbeddedPrompt, cache: KVCache, config: PrefillConfig = PREFILL
) -> TextContext:
    """Fill `cache` with the prompt; return its text positions with their states."""
    passes = prefill_passes(target, prompt, embedded, cache, config)
    text_states = [result.states_RD[is_text_R] for is_text_R, result in passes]
    cache.seal_prompt()
    return text_context(prompt, text_states)


def prefill_passes(
    target: TargetModel,
    prompt: Prompt,
    embedded: EmbeddedPrompt,
    cache: KVCache,
    config: PrefillConfig = PREFILL,
    tap_layers: tuple[int, ...] = (),
) -> Iterator[tuple[torch.Tensor, TargetPass]]:
    """Fill `cache` chunk by chunk; yields which rows of a chunk are text (bool [R]), and its pass.

    Chunks lie at the same places however the passes are interleaved with other work.
    """
    device = embedded.embeddings_SD.device
    for start, end in config.bounds(prompt.token_ids_S.numel()):
        window = slice(start, end)
        rows = SequenceRows(cache, end - start, causal_mask(end - start, device))
        embeddings_RD, positions_AR = embedded.embeddings_SD[window], embedded.positions_AS[:, window]
        result = target.forward(embeddings_RD, positions_AR, (rows,), tap_layers)
        cache.commit(list(range(rows.num_rows)))
        yield prompt.is_text_S[window].to(device), result


def text_context(prompt: Prompt, text_states: Sequence[torch.Tensor]) -> TextContext:
    """What a drafter reads of a prefilled prompt: its text ids beside their states, given chunk by chunk."""
    states_TD = torch.cat(list(text_states))
    return TextContext(prompt.token_ids_S[text_slots(prompt.is_text_S)].to(states_TD.device), states_TD)


def first_token(target: TargetModel, context: TextContext, sampling: Sampling) -> int:
    """The token that prefill itself decides on."""
    logits_1V = target.logits(context.states_TD[-1:])
    return int(choose(logits_1V, sampling, torch.zeros(1, dtype=torch.int64, device=logits_1V.device)))


@dataclass(frozen=True)
class Running:
    """A sequence as a round finds it. A token at cache slot s has position s + `position_offset` on every axis."""

    cache: KVCache
    position_offset: int
    drafter: Drafter[Any]
    session: DraftSession
    turn: Turn
    shape: DraftConfig


@dataclass(frozen=True)
class RoundResult:
    """Tokens of one round of one sequence (accepted ones, then the bonus), and its share of the batch's wall times."""

    token_ids: list[int]
    num_drafted: int
    draft_s: float
    verify_s: float


@torch.inference_mode()
def decode_round(target: TargetModel, batch: Sequence[Running]) -> list[RoundResult]:
    """For every sequence: draft from its root, verify in one target pass for all, commit what was accepted."""
    started = time.perf_counter()
    drafts = _propose(batch)
    drafted = time.perf_counter()
    states = _read_drafts(target, batch, drafts)
    logits = target.logits(torch.cat(states)).split([len(draft) for draft in drafts])
    token_ids = []
    for running, draft, states_ND, logits_NV in zip(batch, drafts, states, logits, strict=True):
        turn = running.turn
        verdict = verify(draft, logits_NV, turn.sampling, turn.position, turn.round_index)
        path = list(verdict.path)
        running.cache.commit(path)
        accepted = draft.tokens_N[path].tolist()
        running.session.commit(accepted, states_ND[path])
        token_ids.append([*accepted[1:], verdict.bonus])
    verified = time.perf_counter()
    return [
        RoundResult(tokens, len(draft) - 1, (drafted - started) / len(batch), (verified - drafted) / len(batch))
        for tokens, draft in zip(token_ids, drafts, strict=True)
    ]


def _propose(batch: Sequence[Running]) -> list[Draft]:
    """Drafts in the batch's order, each drafter asked once."""
    drafts: dict[int, Draft] = {}
    for drafter in {id(running.drafter): running.drafter for running in batch}.values():
        numbers = [number for number, running in enumerate(batch) if running.drafter is drafter]
        jobs = [DraftJob(batch[n].session, batch[n].turn, batch[n].shape) for n in numbers]
        drafts.update(zip(numbers, drafter.propose(jobs), strict=True))
    return [drafts[number] for number in range(len(batch))]


def _read_drafts(target: TargetModel, batch: Sequence[Running], drafts: Sequence[Draft]) -> tuple[torch.Tensor, ...]:
    """The target's states at the nodes of every draft, [N, D] each, from one pass."""
    device, axes = target.info.device, target.info.position_axes
    rows, positions = [], []
    for running, draft in zip(batch, drafts, strict=True):
        visible_NN = None if len(draft) == 1 else ancestors(draft.parents_N).to(device)
        rows.append(SequenceRows(running.cache, len(draft), visible_NN))
        positions.append(depths(draft.parents_N) + running.cache.length + running.position_offset)
    embeddings_RD = target.embed_tokens(torch.cat([draft.tokens_N for draft in drafts]).to(device))
    positions_AR = torch.cat(positions).expand(axes, -1).to(device)
    return target.forward(embeddings_RD, positions_AR, rows).states_RD.split([len(draft) for draft in drafts])
