"""A drafter that always proposes the same tokens: the lower bound of acceptance, for tests and equality checks.

Shape letters: D hidden size, R rows of a pass, V vocabulary.
"""

from collections.abc import Sequence

import torch

from sparrow_core.decoding.drafter import DraftJob, PromptContext, VisualNeeds
from sparrow_core.drafters.tree_growth import Level, grow_drafts
from sparrow_core.types import Draft


class ConstantDrafter:
    """Proposes the same tokens after any text. With tokens that no caption holds, the target accepts none of them, so
    that every round ends in a rollback: the hardest case for losslessness."""

    name = "constant"
    visual_needs: VisualNeeds | None = None

    def __init__(self, token_ids: Sequence[int], vocab_size: int, device: torch.device) -> None:
        self._logits_V = torch.zeros(vocab_size, device=device)
        self._logits_V[list(token_ids)] = 100.0

    def open(self, context: PromptContext, max_new_tokens: int) -> "ConstantDrafter":
        return self

    def propose(self, jobs: Sequence[DraftJob["ConstantDrafter"]]) -> list[Draft]:
        def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
            return {number: self._logits_V.expand(len(level.nodes), -1) for number, level in levels.items()}

        return grow_drafts([(self._logits_V, job.draft_context, job.shape) for job in jobs], expand)

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        pass
