"""Prompt lookup: a drafter without weights that copies what followed the same tokens earlier in the text.

Shape letters: D hidden size, N nodes of a draft, R rows of a pass, T text tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.drafter import DraftContext, DraftJob, PromptContext, VisualNeeds
from sparrow_core.types import Draft


def _chain(tokens: list[int]) -> Draft:
    return Draft(torch.tensor(tokens), torch.arange(-1, len(tokens) - 1))


class PromptLookupDrafter:
    """Drafts as a chain what followed an earlier occurrence of the last n tokens, for the largest n that has one: the
    latest occurrence with enough tokens behind it for a whole draft, or else the latest.

    A copied token has no probability of its own. Greedy decoding and shared noise need none; for the rejection rule the
    drafter's distribution is a point mass on the token.
    """

    name = "prompt_lookup"
    visual_needs: VisualNeeds | None = None

    def __init__(self, vocab_size: int, max_ngram: int = 3) -> None:
        self.vocab_size = vocab_size
        self.max_ngram = max_ngram

    def open(self, context: PromptContext, max_new_tokens: int) -> "PromptLookupSession":
        return PromptLookupSession(self, context.token_ids_T.tolist())

    def propose(self, jobs: Sequence[DraftJob["PromptLookupSession"]]) -> list[Draft]:
        return [job.session.copied(job.draft_context, job.shape) for job in jobs]


class PromptLookupSession:
    """The text before the current root."""

    def __init__(self, drafter: PromptLookupDrafter, token_ids: list[int]) -> None:
        self._drafter = drafter
        self._text = token_ids

    def copied(self, draft_context: DraftContext, shape: DraftConfig) -> Draft:
        """A chain: the root and the tokens that followed the text's last tokens earlier."""
        tokens = [draft_context.root, *self._continuation([*self._text, draft_context.root], shape.depth)]
        draft = _chain(tokens)
        if draft_context.sampling.temperature == 0 or draft_context.sampling.rule == "shared_noise":
            return draft
        proposal_NV = torch.zeros(len(tokens), self._drafter.vocab_size)
        proposal_NV[torch.arange(len(tokens) - 1), draft.tokens_N[1:]] = 1.0
        return Draft(draft.tokens_N, draft.parents_N, proposal_NV)

    def _continuation(self, text: list[int], length: int) -> list[int]:
        for size in range(min(self._drafter.max_ngram, len(text) - 1), 0, -1):
            tail = text[-size:]
            ends = [end for end in range(len(text) - 1, size - 1, -1) if text[end - size : end] == tail]
            if ends:
                end = next((end for end in ends if end + length <= len(text)), ends[0])
                return text[end : end + length]
        return []

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        self._text.extend(token_ids)
