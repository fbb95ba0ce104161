"""The drafter that drafts nothing: every round is one autoregressive step.

Shape letters: D hidden size, R rows of a pass.
"""

from collections.abc import Sequence

import torch

from sparrow_core.decoding.drafter import DraftJob, PromptContext, VisualNeeds
from sparrow_core.types import Draft


class NoDrafter:
    """Every draft is its root alone."""

    name = "none"
    visual_needs: VisualNeeds | None = None

    def open(self, context: PromptContext, max_new_tokens: int) -> "NoDrafter":
        return self

    def propose(self, jobs: Sequence[DraftJob["NoDrafter"]]) -> list[Draft]:
        return [Draft(torch.tensor([job.draft_context.root]), torch.tensor([-1])) for job in jobs]

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        pass
