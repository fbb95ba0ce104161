"""Which slots are learnt, and how windows become a batch."""

import torch

from sparrow_core.distill.batch import PADDING, collate, learnt_slots, num_learnt
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


def test_collate_pads_at_the_end_and_keeps_a_visual_slot() -> None:
    windows = [random_window(0, 2, 3), random_window(1, 4, 6)]
    batch = collate(windows, [False, False])
    assert batch.hidden_BLD.shape == (2, 10, 32)
    assert torch.equal(batch.token_ids_BL[0, :5], windows[0].token_ids_L)
    assert not batch.is_caption_BL[0, 5:].any() and batch.window_BL[0].tolist() == [0] * 5 + [PADDING] * 5
    assert batch.visual_BMD.shape[1] == 1 and (batch.visual_window_BM == PADDING).all()


def test_windows_share_rows_of_a_given_length() -> None:
    windows = [random_window(seed, 2, length) for seed, length in enumerate((3, 4, 8, 2))]
    batch = collate(windows, [True, False, True, True], row_tokens=11)
    assert batch.window_BL.tolist() == [[0] * 5 + [1] * 6, [0] * 10 + [PADDING], [0] * 4 + [PADDING] * 7]
    assert batch.visual_window_BM.tolist() == [[0, 0, 0]] * 3, "the second window shows nothing"
    assert torch.equal(batch.hidden_BLD[0, 5:10], windows[1].hidden_TD)
    assert batch.positions_BL[0].tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 0], "each window counts from 0"


def test_embeddings_stand_where_the_text_leaves_room() -> None:
    window = random_window(3, 3, 4, bridge=2)
    slots, values = window.visual("embeddings")
    assert slots.tolist() == [1, 2, 3, 4, 5, 6] and torch.equal(values, window.embeddings_VD)
    batch = collate([window], [True], "embeddings", "sequence")
    assert batch.visual_positions_BM.tolist() == [[0, 1, 2, 3, 4, 5]]
    # Text tokens stand at 0, 7, 8, 9, ...; a pair stands one before its token.
    assert batch.positions_BL[0].tolist() == [6, 7, 8, 9, 10, 11, 0]


def test_noise_is_read_but_not_learnt() -> None:
    window = random_window(4, 2, 3)
    noise = torch.full_like(window.hidden_TD, 0.5)
    batch = collate([window], [True], noises=[noise])
    assert torch.equal(batch.hidden_BLD[0, :-1], window.hidden_TD)
    assert torch.equal(batch.fed_BLD[0, :-1], window.hidden_TD + 0.5)
