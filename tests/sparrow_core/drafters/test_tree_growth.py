"""Tree growth with a drafter whose logits are nan. Correct drafts are tested together with verification."""

import pytest
import torch

from sparrow_core.config import DraftConfig, Sampling
from sparrow_core.decoding.drafter import DraftContext
from sparrow_core.drafters.tree_growth import Level, grow_drafts

NAN_V = torch.full((5,), torch.nan)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(1.0, rule="rejection")])
@pytest.mark.parametrize("shape", [DraftConfig.chain(3), DraftConfig(depth=3, width=2, total=7)])
@pytest.mark.parametrize("broken_from", [0, 1])
def test_a_draft_ends_where_the_logits_are_nan(sampling: Sampling, shape: DraftConfig, broken_from: int) -> None:
    root_logits_V = NAN_V if broken_from == 0 else torch.randn(5)
    draft_context = DraftContext(root=2, position=0, sampling=sampling, round_index=0)

    def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
        return {number: NAN_V.expand(len(level.nodes), -1) for number, level in levels.items()}

    (draft,) = grow_drafts([(root_logits_V, draft_context, shape)], expand)
    assert draft.tokens_N.tolist()[0] == 2
    assert all(parent <= 0 for parent in draft.parents_N.tolist()), "only the root has children"
    assert (len(draft) > 1) == (broken_from == 1)
