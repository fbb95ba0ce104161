"""Which slots are learnt, and how examples become a batch."""

import torch

from sparrow_core.distill.batch import PADDING, collate, learnt_slots, num_learnt
from tests.sparrow_core.distill.toys import random_example


def slots_by_enumeration(is_caption: list[bool], recursion: int) -> list[int]:
    """All drafts that decoding could make: from any caption token as root, up to the last token."""
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
    examples = [random_example(0, 2, 3), random_example(1, 4, 6)]
    batch = collate(examples, [False, False])
    assert batch.hidden_BED.shape == (2, 10, 32)
    assert torch.equal(batch.token_ids_BE[0, :5], examples[0].token_ids_E)
    assert not batch.is_caption_BE[0, 5:].any() and batch.example_BE[0].tolist() == [0] * 5 + [PADDING] * 5
    assert batch.visual_BMD.shape[1] == 1 and (batch.visual_example_BM == PADDING).all()


def test_examples_share_rows_of_a_given_length() -> None:
    examples = [random_example(seed, 2, length) for seed, length in enumerate((3, 4, 8, 2))]
    batch = collate(examples, [True, False, True, True], row_tokens=11)
    assert batch.example_BE.tolist() == [[0] * 5 + [1] * 6, [0] * 10 + [PADDING], [0] * 4 + [PADDING] * 7]
    assert batch.visual_example_BM.tolist() == [[0, 0, 0]] * 3, "the second example shows nothing"
    assert torch.equal(batch.hidden_BED[0, 5:10], examples[1].hidden_TD)
    assert batch.positions_BE[0].tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 0], (
        "the positions of each example count from 0"
    )


def test_embeddings_are_at_the_slots_without_text() -> None:
    example = random_example(3, 3, 4, bridge=2)
    slots, values = example.visual("embeddings")
    assert slots.tolist() == [1, 2, 3, 4, 5, 6] and torch.equal(values, example.embeddings_MD)
    batch = collate([example], [True], "embeddings", "sequence")
    assert batch.visual_positions_BM.tolist() == [[0, 1, 2, 3, 4, 5]]
    # Text tokens have slots 0, 7, 8, 9, ...; the position of a pair is one before its token.
    assert batch.positions_BE[0].tolist() == [6, 7, 8, 9, 10, 11, 0]


def test_noise_is_read_but_not_learnt() -> None:
    example = random_example(4, 2, 3)
    noise = torch.full_like(example.hidden_TD, 0.5)
    batch = collate([example], [True], noises=[noise])
    assert torch.equal(batch.hidden_BED[0, :-1], example.hidden_TD)
    assert torch.equal(batch.fed_BED[0, :-1], example.hidden_TD + 0.5)
