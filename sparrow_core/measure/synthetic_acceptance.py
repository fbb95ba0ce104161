"""A drafter with a synthetic acceptance: each token that it drafts is right with a given probability.

It shows what a drafter of that quality would save where there are only random weights to time. The drafter's work, the
passes and the rounds are real; only the acceptance is not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.drafter import Drafter, DraftJob, DraftSession, PromptContext
from sparrow_core.types import Draft


class SyntheticAcceptanceDrafter:
    """Lets `drafter` draft, then replaces its draft by one whose tokens agree with `answer`, the target's own greedy
    caption: each with probability `acceptance`, as long as all before it agree."""

    name = "synthetic"

    def __init__(self, drafter: Drafter[Any], answer: Sequence[int], acceptance: float, vocab_size: int) -> None:
        self._drafter, self._answer = drafter, answer
        self.visual_needs = drafter.visual_needs
        self._acceptance, self._vocab_size = acceptance, vocab_size

    def open(self, context: PromptContext, max_new_tokens: int) -> DraftSession:
        return self._drafter.open(context, max_new_tokens)

    def propose(self, jobs: Sequence[DraftJob[DraftSession]]) -> list[Draft]:
        self._drafter.propose(jobs)
        return [self._synthetic_draft(job) for job in jobs]

    def _synthetic_draft(self, job: DraftJob[DraftSession]) -> Draft:
        position = job.draft_context.position
        right_in_a_row = int(np.random.default_rng(position).geometric(1 - self._acceptance)) - 1
        num_right = min(right_in_a_row, job.shape.depth)
        parents = trunk_with_leaves(job.shape)
        expected = [*self._answer[position:], *[0] * job.shape.depth]  # nothing is kept beyond the answer's end
        tokens, depths = [job.draft_context.root], [0]
        for node, parent in enumerate(parents[1:], start=1):
            depths.append(depths[parent] + 1)
            right = expected[depths[node] - 1]
            # The trunk's nodes come first. Nodes after the first `num_right` are wrong; siblings must differ.
            wrong = (right + 1 + node) % self._vocab_size
            tokens.append(right if node <= num_right else wrong)
        return Draft(torch.tensor(tokens), torch.tensor(parents))


def trunk_with_leaves(shape: DraftConfig) -> list[int]:
    """Parents of a tree of `shape.total` nodes: the root, a chain of `shape.depth`, and leaves spread along it."""
    trunk = list(range(-1, shape.depth))
    leaves = [number % shape.depth for number in range(shape.total - len(trunk))]
    return [*trunk, *leaves]
