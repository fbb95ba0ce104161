"""Training batches: examples packed into padded rows, and the rule of which slots are learnt.

Slots pair hidden states and tokens as `hidden_states.py` draws them.
Shape letters: B rows of a training batch, D hidden size, E text tokens of a training example (here of a whole row),
M visual tokens, T text tokens that the drafter reads: E - 1 slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from sparrow_core.distill.hidden_states import TrainingExample, VisualSource
from sparrow_core.drafters.anchors import Layout, pair_positions, visual_positions

Item = TypeVar("Item")

PADDING = -1  # the number of the example that padding is of


@dataclass(frozen=True)
class TrainingBatch:
    """Each row holds one or several examples end to end, then padding; float32.

    `example_BE` and `visual_example_BM` are the number of a token's example within its row, from 0; PADDING in padding.
    `hidden_BED` are the target's hidden states, `fed_BED` the same with noise, if any, as the drafter reads them.
    `positions_BE` are the drafter's positions of slots (the last column is unused), `visual_positions_BM` those of
    visual tokens. An example whose visual tokens are not shown has none here.
    """

    token_ids_BE: torch.Tensor
    hidden_BED: torch.Tensor
    fed_BED: torch.Tensor
    is_caption_BE: torch.Tensor
    example_BE: torch.Tensor
    positions_BE: torch.Tensor
    visual_BMD: torch.Tensor
    visual_example_BM: torch.Tensor
    visual_positions_BM: torch.Tensor

    def to(self, device: torch.device) -> "TrainingBatch":
        return TrainingBatch(*(tensor.to(device) for tensor in vars(self).values()))


def collate(
    examples: Sequence[TrainingExample],
    shows_visual: Sequence[bool],
    source: VisualSource = "bridge",
    layout: Layout = "before",
    row_tokens: int = 0,
    noises: Sequence[torch.Tensor] | None = None,
) -> TrainingBatch:
    """Examples in rows, padded to the longest row.

    Examples share a row, in order, up to `row_tokens` text tokens (0: every example has its own row). `layout` decides
    the positions of visual tokens (`anchors`). `noises` [T, D] are added to the hidden states that the drafter reads. A
    row has at least one visual token, if only a masked one, so that the layers that read visual tokens are in every
    pass.
    """
    rows: list[list[int]] = []
    filled = 0
    for number, example in enumerate(examples):
        length = len(example.token_ids_E)
        if not rows or filled + length > row_tokens:
            rows.append([])
            filled = 0
        rows[-1].append(number)
        filled += length
    width = examples[0].hidden_TD.shape[1]
    parts = [[_Part(examples[n], shows_visual[n], source, layout) for n in row] for row in rows]
    nothing = torch.zeros(1, width)
    fed_BED = hidden_BED = _rows(parts, lambda part: pad(part.example.hidden_TD.float(), (0, 0, 0, 1)))
    if noises is not None:
        fed_BED = hidden_BED + _rows([[noises[n] for n in row] for row in rows], lambda x: pad(x, (0, 0, 0, 1)))
    visual = [torch.cat([part.visual_MD for part in row]) for row in parts]
    return TrainingBatch(
        token_ids_BE=_rows(parts, lambda part: part.example.token_ids_E),
        hidden_BED=hidden_BED,
        fed_BED=fed_BED,
        is_caption_BE=_rows(parts, lambda part: part.example.is_caption_E),
        example_BE=_numbered(parts, lambda part: len(part.example.token_ids_E)),
        positions_BE=_rows(parts, lambda part: pad(part.positions_T, (0, 1))),
        visual_BMD=pad_sequence([v if len(v) else nothing for v in visual], batch_first=True),
        visual_example_BM=_at_least_one(_numbered(parts, lambda part: len(part.visual_MD)), PADDING),
        visual_positions_BM=_at_least_one(_rows(parts, lambda part: part.visual_positions_M), 0),
    )


class _Part:
    """One example's part of a row."""

    def __init__(self, example: TrainingExample, shows_visual: bool, source: VisualSource, layout: Layout) -> None:
        self.example = example
        self.positions_T = pair_positions(example.slots_E, layout).float()
        slots_M, visual_MD = example.visual(source)
        shown = slice(None) if shows_visual else slice(0)
        self.visual_MD = visual_MD.float()[shown]
        self.visual_positions_M = visual_positions(example.slots_E, slots_M, layout)[shown]


def _rows(parts: Sequence[Sequence[Item]], column: Callable[[Item], torch.Tensor]) -> torch.Tensor:
    return pad_sequence([torch.cat([column(part) for part in row]) for row in parts], batch_first=True)


def _numbered(parts: Sequence[Sequence[_Part]], length: Callable[[_Part], int]) -> torch.Tensor:
    """For each token, the number of its example within the row."""
    numbers = [torch.cat([torch.full((length(p),), n) for n, p in enumerate(row)]) for row in parts]
    return pad_sequence(numbers, batch_first=True, padding_value=PADDING)


def _at_least_one(values_BM: torch.Tensor, filling: int) -> torch.Tensor:
    return values_BM if values_BM.shape[1] else torch.full((len(values_BM), 1), filling)


def learnt_slots(is_caption_BE: torch.Tensor, recursion: int) -> torch.Tensor:
    """Slots whose predictions are learnt in one pass, bool [B, T]: the predictions that drafts make in decoding.

    Slot i of recursion r predicts token i+2 in a draft whose root is token i+1-r. All tokens from the root to the
    predicted one must be caption tokens; a caption's first token comes from the target's prefill and is never drafted.
    """
    num_slots = is_caption_BE.shape[1] - 1
    learnt_BT = torch.ones_like(is_caption_BE[:, :num_slots])
    for token_offset in range(1 - recursion, 3):
        learnt_BT &= _shifted(is_caption_BE, token_offset)[:, :num_slots]
    return learnt_BT


def _shifted(mask_BE: torch.Tensor, offset: int) -> torch.Tensor:
    """Column i of the result is column i + offset of `mask_BE`; False where there is no such column."""
    length = mask_BE.shape[1]
    moved_BE = torch.zeros_like(mask_BE)
    start, end = max(0, -offset), min(length, length - offset)
    if start < end:
        moved_BE[:, start:end] = mask_BE[:, start + offset : end + offset]
    return moved_BE


def num_learnt(is_caption_E: torch.Tensor, recursions: int) -> int:
    """Learnt slots of one example, summed over the first pass and all recursions."""
    return sum(int(learnt_slots(is_caption_E[None], recursion).sum()) for recursion in range(recursions + 1))
