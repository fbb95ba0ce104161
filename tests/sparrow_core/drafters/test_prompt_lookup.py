"""Drafts of prompt lookup, worked out by hand."""

import pytest
import torch

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafter import DraftContext, PromptContext
from sparrow_core.drafters.prompt_lookup import PromptLookupDrafter


@pytest.mark.parametrize(
    ("text", "root", "copied"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2], 3, [4, 5, 6]),  # all three last tokens came before
        ([2, 3, 7, 7, 7, 1, 2, 3, 8, 8, 8, 2], 3, [8, 8, 8]),  # the latest of two occurrences
        (
            [1, 2, 3, 4, 4, 4, 9, 2, 3, 5, 5, 5, 1, 2],
            3,
            [4, 4, 4],
        ),  # three tokens match: sooner than two
        ([3, 4, 5, 6, 3, 9], 3, [4, 5, 6]),  # "9 3" never came before: the latest 3 with a whole draft behind it
        ([5, 6, 5], 6, [5, 6]),  # no occurrence has a whole draft behind it: the latest
        ([1, 2, 4], 3, []),
    ],
)
def test_what_followed_last_time_is_copied(text: list[int], root: int, copied: list[int]) -> None:
    session = PromptLookupDrafter(10).open(PromptContext(torch.tensor(text[:1]), torch.zeros(1, 1)), 20)
    session.commit(text[1:], torch.zeros(len(text) - 1, 1))
    draft = session.copied(DraftContext(root, 1, 0, Sampling()), DraftConfig.chain(3))
    assert draft.tokens_N.tolist() == [root, *copied]
    assert draft.parents_N.tolist() == list(range(-1, len(copied)))


def test_a_copied_token_is_certain_under_rejection() -> None:
    session = PromptLookupDrafter(10).open(PromptContext(torch.tensor([1, 2, 3, 1]), torch.zeros(4, 1)), 20)
    draft = session.copied(DraftContext(2, 1, 0, Sampling(1.0, rule="rejection")), DraftConfig.chain(2))
    assert draft.tokens_N.tolist() == [2, 3, 1] and draft.proposal_NV is not None
    assert draft.proposal_NV.nonzero().tolist() == [[0, 3], [1, 1]]
