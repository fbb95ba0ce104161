"""Drafts that are right as often as one says: what a drafter of that quality would save on a machine where there are
only random weights to time. The drafter's work, the passes and the rounds are real; what is accepted is not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.drafter import Drafter, DraftJob, DraftSession, PromptContext
from sparrow_core.types import Draft


class SyntheticAcceptanceDrafter:
    """Lets `drafter` work, and puts in the place of its draft one in which each next token of `answer` (what the target
    says alone, greedily) is right with probability `acceptance` as long as those before it are."""

    name = "imposed"

    def __init__(self, drafter: Drafter[Any], answer: Sequence[int], acceptance: float, vocab_size: int) -> None:
        self._drafter, self._answer = drafter, answer
        self.visual_needs = drafter.visual_needs
        self._acceptance, self._vocab_size = acceptance, vocab_size

    def open(self, context: PromptContext, max_new_tokens: int) -> DraftSession:
        return self._drafter.open(context, max_new_tokens)

    def propose(self, jobs: Sequence[DraftJob[DraftSession]]) -> list[Draft]:
        self._drafter.propose(jobs)
        return [self._imposed(job) for job in jobs]

    def _imposed(self, job: DraftJob[DraftSession]) -> Draft:
        position = job.draft_context.position
        right_in_a_row = int(np.random.default_rng(position).geometric(1 - self._acceptance)) - 1
        num_right = min(right_in_a_row, job.shape.depth)
        parents = trunk_with_leaves(job.shape)
        said = [*self._answer[position:], *[0] * job.shape.depth]  # behind its end nothing is kept anyway
        tokens, depths = [job.draft_context.root], [0]
        for node, parent in enumerate(parents[1:], start=1):
            depths.append(depths[parent] + 1)
            right = said[depths[node] - 1]
            # The trunk's nodes come first. What lies behind them or behind a wrong token differs from the answer, and
            # from its siblings.
            wrong = (right + 1 + node) % self._vocab_size
            tokens.append(right if node <= num_right else wrong)
        return Draft(torch.tensor(tokens), torch.tensor(parents))


def trunk_with_leaves(shape: DraftConfig) -> list[int]:
    """Parents of a tree of `shape.total` nodes: the root, a chain of `shape.depth`, and leaves spread along it."""
    trunk = list(range(-1, shape.depth))
    leaves = [number % shape.depth for number in range(shape.total - len(trunk))]
    return [*trunk, *leaves]
