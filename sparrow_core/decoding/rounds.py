"""Rounds of speculative decoding, draft -> verify -> commit, for a batch. `autoregressive.py` is the slow twin.

Shape letters: A axes of a position, D hidden size, N nodes of a draft, R rows of a pass, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.autoregressive import decode_one
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafter import DraftContext, Drafter, DraftJob, DraftSession, Recording
from sparrow_core.decoding.near_ties import first_in_doubt
from sparrow_core.decoding.sampling import choose
from sparrow_core.decoding.target import SequenceRows, TargetModel
from sparrow_core.decoding.tree import ancestors, depths
from sparrow_core.decoding.verify import verify
from sparrow_core.types import Draft


@dataclass(frozen=True)
class RunningSequence:
    """A sequence at the start of a round. A token at cache slot s has position s + `position_offset` on every axis."""

    cache: KVCache
    position_offset: int
    drafter: Drafter[Any]
    session: DraftSession
    draft_context: DraftContext
    shape: DraftConfig
    recording: Recording | None = None


@dataclass(frozen=True)
class RoundResult:
    """What one round added to one sequence.

    `token_ids` are the accepted tokens, then the bonus token; `draft_s` and `verify_s` this sequence's share of the
    batch's wall seconds. `was_in_doubt` is True if a near-tie was decided by a pass over one row (see `near_ties`).
    """

    token_ids: list[int]
    num_drafted: int
    draft_s: float
    verify_s: float
    was_in_doubt: bool = False


@torch.inference_mode()
def decode_round(
    target: TargetModel, batch: Sequence[RunningSequence], batch_deviation: float = 0.0
) -> list[RoundResult]:
    """One round of every sequence: draft from its root, verify all drafts in one target pass, commit what is accepted.

    `batch_deviation` is the largest difference that other rows in a pass make to a row's logits (see `near_ties`).
    """
    started = time.perf_counter()
    drafts = _propose(batch)
    drafted = time.perf_counter()
    hidden = _forward_drafts(target, batch, drafts)
    logits = target.logits(torch.cat(hidden)).split([len(draft) for draft in drafts])
    deviation = batch_deviation if sum(map(len, drafts)) > 1 else 0.0  # a pass over one row is exact
    parts = zip(batch, drafts, hidden, logits, strict=True)
    outcomes = [_verify_and_commit(target, *part, deviation) for part in parts]
    verified = time.perf_counter()
    draft_s, verify_s = (drafted - started) / len(batch), (verified - drafted) / len(batch)
    return [
        RoundResult(tokens, len(draft) - 1, draft_s, verify_s, was_in_doubt)
        for (tokens, was_in_doubt), draft in zip(outcomes, drafts, strict=True)
    ]


def _verify_and_commit(
    target: TargetModel,
    running: RunningSequence,
    draft: Draft,
    hidden_ND: torch.Tensor,
    logits_NV: torch.Tensor,
    batch_deviation: float,
) -> tuple[list[int], bool]:
    """Verify one draft and commit what is accepted -> the new tokens, and whether one of them was a near-tie."""
    draft_context = running.draft_context
    verdict = verify(draft, logits_NV, draft_context.sampling, draft_context.position, draft_context.round_index)
    path, bonus = list(verdict.path), verdict.bonus
    doubtful = first_in_doubt(logits_NV[path], draft_context.sampling, draft_context.position, batch_deviation)
    if doubtful is None:
        running.cache.commit(path)
        hidden_RD = hidden_ND[path]
    else:
        path = path[: doubtful + 1]
        running.cache.commit(path[:-1])
        hidden_1D = decode_one(target, running.cache, running.position_offset, int(draft.tokens_N[path[-1]]))
        position_1 = torch.tensor([draft_context.position + doubtful], device=hidden_1D.device)
        bonus = int(choose(target.logits(hidden_1D), draft_context.sampling, position_1))
        hidden_RD = torch.cat([hidden_ND[path[:-1]], hidden_1D])
    accepted = draft.tokens_N[path].tolist()
    running.session.commit(accepted, hidden_RD)
    if running.recording:
        running.recording.commit(accepted, hidden_RD)
    return [*accepted[1:], bonus], doubtful is not None


def _propose(batch: Sequence[RunningSequence]) -> list[Draft]:
    """One draft for each sequence, in the batch's order. Each drafter is called once for all of its sequences."""
    drafts: dict[int, Draft] = {}
    for drafter in {id(running.drafter): running.drafter for running in batch}.values():
        indices = [index for index, running in enumerate(batch) if running.drafter is drafter]
        jobs = [DraftJob(batch[i].session, batch[i].draft_context, batch[i].shape) for i in indices]
        drafts.update(zip(indices, drafter.propose(jobs), strict=True))
    return [drafts[index] for index in range(len(batch))]


def _forward_drafts(
    target: TargetModel, batch: Sequence[RunningSequence], drafts: Sequence[Draft]
) -> tuple[torch.Tensor, ...]:
    """The target's final-norm hidden states at the nodes of each draft [N, D], all from one pass."""
    device, axes = target.info.device, target.info.position_axes
    rows, positions = [], []
    for running, draft in zip(batch, drafts, strict=True):
        visible_NN = None if len(draft) == 1 else ancestors(draft.parents_N).to(device)
        rows.append(SequenceRows(running.cache, len(draft), visible_NN))
        positions.append(depths(draft.parents_N) + running.cache.length + running.position_offset)
    embeddings_RD = target.embed_tokens(torch.cat([draft.tokens_N for draft in drafts]).to(device))
    positions_AR = torch.cat(positions).expand(axes, -1).to(device)
    return target.forward(embeddings_RD, positions_AR, rows).hidden_RD.split([len(draft) for draft in drafts])
