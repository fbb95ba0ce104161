"""Prefill, then rounds of draft -> verify -> commit for a batch: the speculative twin of `autoregressive.py`.

Shape letters: S prompt tokens, R rows of one pass, N nodes of one draft, A axes of a position, D hidden size.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sparrow_core.config import DraftConfig, PrefillConfig
from sparrow_core.decoding.anchors import text_slots
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafting import (
    Drafter,
    DraftJob,
    DraftSession,
    PromptContext,
    Recording,
    Turn,
    VisualContext,
    VisualNeeds,
)
from sparrow_core.decoding.near_ties import first_in_doubt
from sparrow_core.decoding.sampling import choose
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, SequenceRows, TargetModel, TargetPass, finish
from sparrow_core.decoding.tree import ancestors, depths
from sparrow_core.decoding.verify import verify
from sparrow_core.types import Draft, Sampling

PREFILL = PrefillConfig()


class ChunkPass(NamedTuple):
    """Which rows of a chunk of a prompt are text (bool [R]), and its pass."""

    is_text_R: torch.Tensor
    result: TargetPass


def prefill(
    target: TargetModel,
    prompt: Prompt,
    embedded: EmbeddedPrompt,
    cache: KVCache,
    config: PrefillConfig = PREFILL,
    needs: VisualNeeds | None = None,
) -> PromptContext:
    """Fill `cache` with the prompt; return its text positions with their states. `needs` asks for the video, too."""
    return finish(prefill_by_layer(target, prompt, embedded, cache, config, needs))


def prefill_by_layer(
    target: TargetModel,
    prompt: Prompt,
    embedded: EmbeddedPrompt,
    cache: KVCache,
    config: PrefillConfig = PREFILL,
    needs: VisualNeeds | None = None,
) -> Generator[None, None, PromptContext]:
    """`prefill` with a pause after every layer."""
    asked = needs or VisualNeeds()
    text_states: list[torch.Tensor] = []
    taps: dict[int, list[torch.Tensor]] = {layer: [] for layer in asked.tap_layers}
    text_taps: dict[int, list[torch.Tensor]] = {layer: [] for layer in asked.text_tap_layers}
    for chunk in prefill_passes(target, prompt, embedded, cache, config, (*taps, *text_taps)):
        if chunk is not None:
            text_states.append(chunk.result.states_RD[chunk.is_text_R])
            for layer, parts in taps.items():
                parts.append(chunk.result.taps[layer])
            for layer, parts in text_taps.items():
                parts.append(chunk.result.taps[layer][chunk.is_text_R])
        yield
    cache.seal_prompt()
    states_TD = torch.cat(text_states)
    visual = None
    if needs:
        visual = VisualContext(
            prompt.is_text_S,
            embedded,
            cache.data_LKGSD[:, 0, :, : cache.length],
            {layer: torch.cat(parts) for layer, parts in taps.items()},
            {layer: torch.cat(parts) for layer, parts in text_taps.items()},
        )
    return PromptContext(prompt.token_ids_S[text_slots(prompt.is_text_S)].to(states_TD.device), states_TD, visual)


def prefill_passes(
    target: TargetModel,
    prompt: Prompt,
    embedded: EmbeddedPrompt,
    cache: KVCache,
    config: PrefillConfig = PREFILL,
    tap_layers: tuple[int, ...] = (),
) -> Iterator[ChunkPass | None]:
    """Fill `cache` chunk by chunk; yields after each layer: None, or at the end of a chunk its pass.

    Chunks lie at the same places however this is interleaved with other work.
    """
    device = embedded.embeddings_SD.device
    num_tokens = prompt.token_ids_S.numel()
    for start in range(0, num_tokens, config.chunk_tokens):
        window = slice(start, min(start + config.chunk_tokens, num_tokens))
        rows = SequenceRows(cache, window.stop - start)
        embeddings_RD, positions_AR = embedded.embeddings_SD[window], embedded.positions_AS[:, window]
        result = yield from target.forward_by_layer(embeddings_RD, positions_AR, (rows,), tap_layers)
        cache.commit(list(range(rows.num_rows)))
        yield ChunkPass(prompt.is_text_S[window].to(device), result)


def first_token(target: TargetModel, context: PromptContext, sampling: Sampling) -> int:
    """The token that prefill itself decides on."""
    logits_1V = target.logits(context.states_TD[-1:])
    return int(choose(logits_1V, sampling, torch.zeros(1, dtype=torch.int64, device=logits_1V.device)))


def read_alone(target: TargetModel, cache: KVCache, position_offset: int, token: int) -> torch.Tensor:
    """The step of the autoregressive loop: one row in a pass of its own, committed -> its state [1, D]."""
    info = target.info
    token_1 = torch.tensor([token], device=info.device)
    position_A1 = torch.full((info.position_axes, 1), cache.length + position_offset, device=info.device)
    rows = (SequenceRows(cache, num_rows=1),)
    state_1D = target.forward(target.embed_tokens(token_1), position_A1, rows).states_RD
    cache.commit([0])
    return state_1D


@dataclass(frozen=True)
class Running:
    """A sequence as a round finds it. A token at cache slot s has position s + `position_offset` on every axis."""

    cache: KVCache
    position_offset: int
    drafter: Drafter[Any]
    session: DraftSession
    turn: Turn
    shape: DraftConfig
    recording: Recording | None = None


@dataclass(frozen=True)
class RoundResult:
    """Tokens of one round of one sequence (accepted ones, then the bonus), and its share of the batch's wall times."""

    token_ids: list[int]
    num_drafted: int
    draft_s: float
    verify_s: float
    was_in_doubt: bool = False


@torch.inference_mode()
def decode_round(target: TargetModel, batch: Sequence[Running], row_noise: float = 0.0) -> list[RoundResult]:
    """For every sequence: draft from its root, verify in one target pass for all, commit what was accepted.

    `row_noise` is how much a row's logits may depend on the rows beside it (see `near_ties`).
    """
    started = time.perf_counter()
    drafts = _propose(batch)
    drafted = time.perf_counter()
    states = _read_drafts(target, batch, drafts)
    logits = target.logits(torch.cat(states)).split([len(draft) for draft in drafts])
    shared = row_noise if sum(map(len, drafts)) > 1 else 0.0  # a row that was alone is what it should be
    outcomes = [_settle(target, *parts, shared) for parts in zip(batch, drafts, states, logits, strict=True)]
    verified = time.perf_counter()
    draft_s, verify_s = (drafted - started) / len(batch), (verified - drafted) / len(batch)
    return [
        RoundResult(tokens, len(draft) - 1, draft_s, verify_s, was_in_doubt)
        for (tokens, was_in_doubt), draft in zip(outcomes, drafts, strict=True)
    ]


def _settle(
    target: TargetModel,
    running: Running,
    draft: Draft,
    states_ND: torch.Tensor,
    logits_NV: torch.Tensor,
    row_noise: float,
) -> tuple[list[int], bool]:
    """Judge one draft and commit what is accepted -> the new tokens, and whether one was decided by a row alone."""
    turn = running.turn
    verdict = verify(draft, logits_NV, turn.sampling, turn.position, turn.round_index)
    path, bonus = list(verdict.path), verdict.bonus
    doubtful = first_in_doubt(logits_NV[path], turn.sampling, turn.position, row_noise)
    if doubtful is None:
        running.cache.commit(path)
        path_states = states_ND[path]
    else:
        path = path[: doubtful + 1]
        running.cache.commit(path[:-1])
        state_1D = read_alone(target, running.cache, running.position_offset, int(draft.tokens_N[path[-1]]))
        position_1 = torch.tensor([turn.position + doubtful], device=state_1D.device)
        bonus = int(choose(target.logits(state_1D), turn.sampling, position_1))
        path_states = torch.cat([states_ND[path[:-1]], state_1D])
    accepted = draft.tokens_N[path].tolist()
    running.session.commit(accepted, path_states)
    if running.recording:
        running.recording.commit(accepted, path_states)
    return [*accepted[1:], bonus], doubtful is not None


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
