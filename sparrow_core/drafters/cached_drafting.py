"""Rounds of a drafter that keeps KV caches of its own: waiting tokens, one pass a level, rollback; for many sequences.

    propose   The root joins the waiting tokens. One pass runs and commits them all. Then the draft grows on pending
              rows, one pass a level, and these are rolled back.
    commit    Accepted tokens wait for the next root, so that both take one pass.

A drafter supplies the pass (`RunRows`) and keeps in its sessions whatever else its rows read.
Shape letters: D hidden size, F nodes of one level of a draft, J sequences drafted for together, R rows of a pass,
V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

import torch

from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafter import DraftJob
from sparrow_core.decoding.target import SequenceRows, TargetModel
from sparrow_core.drafters.draft_rows import DraftRows
from sparrow_core.drafters.tree_growth import Level, grow_drafts
from sparrow_core.types import Draft


class CachedSession:
    """One sequence: a cache of committed tokens, and accepted tokens that wait for the next root.

    `next_position` is the position of the next token, behind those that wait.
    """

    def __init__(self, cache: KVCache, next_position: int) -> None:
        self.cache = cache
        self.next_position = next_position
        self.waiting_ids: list[int] = []
        self.waiting_positions: list[int] = []
        self._has_root = False

    def append_root(self, root: int) -> None:
        """Let the root of the next draft wait behind the accepted tokens."""
        self._wait([root])
        self._has_root = True

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        """Let the accepted tokens wait, the first of which is the root."""
        if not self._has_root:  # nothing was drafted from it
            self.append_root(token_ids[0])
        self._has_root = False
        self._wait(token_ids[1:])

    def clear_waiting(self) -> None:
        """Forget the waiting tokens, which the cache has committed."""
        self.waiting_ids, self.waiting_positions = [], []

    def _wait(self, token_ids: Sequence[int]) -> None:
        self.waiting_ids += token_ids
        self.waiting_positions += range(self.next_position, self.next_position + len(token_ids))
        self.next_position += len(token_ids)


Session = TypeVar("Session", bound=CachedSession)


@dataclass(frozen=True)
class NewRows(Generic[Session]):
    """The tokens of one pass, session after session: all waiting tokens, or one level of each draft.

    `sequences[i]` are the rows of `sessions[i]`, and `levels[i]` its draft and level; waiting tokens have no `levels`.
    """

    sessions: Sequence[Session]
    sequences: Sequence[SequenceRows]
    embeddings_RD: torch.Tensor
    positions_R: torch.Tensor
    levels: Sequence[tuple[DraftRows, Level]] = ()

    def parent_outputs(self) -> torch.Tensor | None:
        """The drafter's own outputs at the parents of drafted tokens [R, D]; None for waiting tokens."""
        return torch.cat([draft.parent_outputs(level) for draft, level in self.levels]) if self.levels else None


RunRows = Callable[[NewRows[Session]], torch.Tensor]
"""One pass of the drafter: writes keys and values into the caches and returns its outputs [R, D], which the target's
lm_head reads."""


def commit_waiting(sessions: Sequence[Session], target: TargetModel, run: RunRows[Session]) -> torch.Tensor:
    """Run the waiting tokens of all sessions and commit them -> the output at the last token of each session [J, D]."""
    counts = [len(session.waiting_ids) for session in sessions]
    device = target.info.device
    ids_R = torch.tensor([token for session in sessions for token in session.waiting_ids], device=device)
    positions = [position for session in sessions for position in session.waiting_positions]
    sequences = [SequenceRows(session.cache, count) for session, count in zip(sessions, counts, strict=True)]
    rows = NewRows(sessions, sequences, target.embed_tokens(ids_R), torch.tensor(positions, device=device))
    outputs_RD = run(rows)
    for session, count in zip(sessions, counts, strict=True):
        session.cache.commit(list(range(count)))
        session.clear_waiting()
    return outputs_RD[[end - 1 for end in accumulate(counts)]]


def propose_drafts(jobs: Sequence[DraftJob[Session]], target: TargetModel, run: RunRows[Session]) -> list[Draft]:
    """A draft for each job. The caches then hold the roots and all tokens before them, and no drafted token."""
    for job in jobs:
        job.session.append_root(job.draft_context.root)
    sessions = [job.session for job in jobs]
    roots_JD = commit_waiting(sessions, target, run)
    logits_JV = target.logits(roots_JD)
    growing = [DraftRows(session.cache, root_D) for session, root_D in zip(sessions, roots_JD, strict=True)]

    def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
        numbers = list(levels)
        rows = _rows_of_levels([sessions[n] for n in numbers], [(growing[n], levels[n]) for n in numbers], target)
        outputs_RD = run(rows)
        sizes = [len(level.nodes) for level in levels.values()]
        for (draft, level), outputs_FD in zip(rows.levels, outputs_RD.split(sizes), strict=True):
            draft.remember(level, outputs_FD)
        return dict(zip(levels, target.logits(outputs_RD).split(sizes), strict=True))

    requests = [(logits_V, job.draft_context, job.shape) for logits_V, job in zip(logits_JV, jobs, strict=True)]
    drafts = grow_drafts(requests, expand)
    for session in sessions:
        session.cache.rollback()
    return drafts


def _rows_of_levels(
    sessions: Sequence[Session], levels: Sequence[tuple[DraftRows, Level]], target: TargetModel
) -> NewRows[Session]:
    """One level of each session's draft, placed behind the pending slots of its cache."""
    device = target.info.device
    sequences = [
        SequenceRows(session.cache, len(level.nodes), draft.place(level).to(device))
        for session, (draft, level) in zip(sessions, levels, strict=True)
    ]
    ids_R = torch.tensor([token for _, level in levels for token in level.tokens], device=device)
    positions = [
        session.next_position - 1 + depth
        for session, (draft, level) in zip(sessions, levels, strict=True)
        for depth in draft.depths(level)
    ]
    return NewRows(sessions, sequences, target.embed_tokens(ids_R), torch.tensor(positions, device=device), levels)
