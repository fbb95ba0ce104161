"""Which slots are learnt, and how windows become a batch."""

import torch

from sparrow_core.distill.states import collate, learnt_slots, num_learnt
from tests.sparrow_core.distill.toys import random_window


def slots_by_enumeration(is_caption: list[bool], recursion: int) -> list[int]:
    """Walk all drafts that decoding could make: any root that is a caption token, any depth below the last token."""
    slots = []
    for root in range(len(is_caption)):
        path = range(root, root + recursion + 2)
        if path[-1] < len(is_caption) and all(is_caption[token] for token in path):
            slots.append(root + recursion - 1)
    return slots


def test_learnt_slots_are_those_of_real_drafts() -> None:
    captions = [
        [False] * 3 + [True] * 5,
        [False] * 2 + [True],
        [False, True, True, True, False, False, True, True, True, True],
    ]
    for is_caption in captions:
        for recursion in range(5):
            mask = torch.tensor([is_caption])
            expected = slots_by_enumeration(is_caption, recursion)
            assert learnt_slots(mask, recursion)[0].nonzero()[:, 0].tolist() == expected
        total = sum(len(slots_by_enumeration(is_caption, recursion)) for recursion in range(3))
        assert num_learnt(torch.tensor(is_caption), 2) == total


def test_collate_pads_at_the_end_and_keeps_a_bridge_slot() -> None:
    windows = [random_window(0, 2, 3, bridge=0), random_window(1, 4, 6, bridge=0)]
    batch = collate(windows)
    assert batch.states_BLD.shape == (2, 10, 32)
    assert torch.equal(batch.token_ids_BL[0, :5], windows[0].token_ids_L)
    assert not batch.is_caption_BL[0, 5:].any()
    assert batch.bridge_BMD.shape[1] == 1 and not batch.has_bridge_BM.any()
