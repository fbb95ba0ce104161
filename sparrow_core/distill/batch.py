"""Captions side by side in the rows of a training batch, and the rule of which positions are learnt.

Shape letters: B rows of a batch, L text tokens (visual placeholders cut out), T = L - 1 drafter slots, M visual tokens,
D hidden size. Slots pair states and tokens as `hidden_states.py` draws them.
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


PADDING = -1  # the window of padding


@dataclass(frozen=True)
class TrainingBatch:
    """Rows of one or several windows end to end, in float32. `window_BL` numbers the windows of a row from 0, and
    `visual_window_BM` says whose a visual token is; both are -1 in padding, which stands at the end.

    `hidden_BLD` are the target's, `fed_BLD` what the drafter is given of them (with noise, if there is any).
    `positions_BL` are the drafter's positions by slot (the last column is unused), `visual_positions_BM` those of
    visual tokens. A window whose visual part is not shown has no visual token here.
    """

    token_ids_BL: torch.Tensor
    hidden_BLD: torch.Tensor
    fed_BLD: torch.Tensor
    is_caption_BL: torch.Tensor
    window_BL: torch.Tensor
    positions_BL: torch.Tensor
    visual_BMD: torch.Tensor
    visual_window_BM: torch.Tensor
    visual_positions_BM: torch.Tensor

    def to(self, device: torch.device) -> "TrainingBatch":
        return TrainingBatch(*(tensor.to(device) for tensor in vars(self).values()))


def collate(
    windows: Sequence[TrainingExample],
    shows_visual: Sequence[bool],
    source: VisualSource = "bridge",
    layout: Layout = "before",
    row_tokens: int = 0,
    noises: Sequence[torch.Tensor] | None = None,
) -> TrainingBatch:
    """Windows side by side in rows, padded to the longest row.

    Windows share a row, in order, as long as it has no more than `row_tokens` text tokens (0: none is shared).
    `layout` places their visual tokens (`anchors`). `noises` [T, D] are added to what the drafter reads. A row keeps at
    least one visual slot, if only a masked one, so that what reads them is always used.
    """
    rows: list[list[int]] = []
    filled = 0
    for number, window in enumerate(windows):
        length = len(window.token_ids_L)
        if not rows or filled + length > row_tokens:
            rows.append([])
            filled = 0
        rows[-1].append(number)
        filled += length
    width = windows[0].hidden_TD.shape[1]
    parts = [[_Part(windows[n], shows_visual[n], source, layout) for n in row] for row in rows]
    nothing = torch.zeros(1, width)
    fed_BLD = hidden_BLD = _rows(parts, lambda part: pad(part.window.hidden_TD.float(), (0, 0, 0, 1)))
    if noises is not None:
        fed_BLD = hidden_BLD + _rows([[noises[n] for n in row] for row in rows], lambda x: pad(x, (0, 0, 0, 1)))
    visual = [torch.cat([part.visual_MD for part in row]) for row in parts]
    return TrainingBatch(
        token_ids_BL=_rows(parts, lambda part: part.window.token_ids_L),
        hidden_BLD=hidden_BLD,
        fed_BLD=fed_BLD,
        is_caption_BL=_rows(parts, lambda part: part.window.is_caption_L),
        window_BL=_numbered(parts, lambda part: len(part.window.token_ids_L)),
        positions_BL=_rows(parts, lambda part: pad(part.positions_T, (0, 1))),
        visual_BMD=pad_sequence([v if len(v) else nothing for v in visual], batch_first=True),
        visual_window_BM=_at_least_one(_numbered(parts, lambda part: len(part.visual_MD)), PADDING),
        visual_positions_BM=_at_least_one(_rows(parts, lambda part: part.visual_positions_M), 0),
    )


class _Part:
    """One window's share of a row."""

    def __init__(self, window: TrainingExample, shows_visual: bool, source: VisualSource, layout: Layout) -> None:
        self.window = window
        self.positions_T = pair_positions(window.slots_L, layout).float()
        slots_M, visual_MD = window.visual(source)
        kept = slice(None) if shows_visual else slice(0)
        self.visual_MD = visual_MD.float()[kept]
        self.visual_positions_M = visual_positions(window.slots_L, slots_M, layout)[kept]


def _rows(parts: Sequence[Sequence[Item]], column: Callable[[Item], torch.Tensor]) -> torch.Tensor:
    return pad_sequence([torch.cat([column(part) for part in row]) for row in parts], batch_first=True)


def _numbered(parts: Sequence[Sequence[_Part]], length: Callable[[_Part], int]) -> torch.Tensor:
    """The number of the window within its row, for each of its tokens."""
    numbers = [torch.cat([torch.full((length(p),), n) for n, p in enumerate(row)]) for row in parts]
    return pad_sequence(numbers, batch_first=True, padding_value=PADDING)


def _at_least_one(values_BM: torch.Tensor, filling: int) -> torch.Tensor:
    return values_BM if values_BM.shape[1] else torch.full((len(values_BM), 1), filling)


def learnt_slots(is_caption_BL: torch.Tensor, recursion: int) -> torch.Tensor:
    """Slots whose prediction is learnt in one pass, bool [B, T]: those that a decoding draft would make.

    Slot i of recursion r predicts token i+2 in a draft whose root is token i+1-r. All tokens from root to prediction
    must be caption tokens; a caption's first token comes from the target's prefill and is never drafted.
    """
    num_slots = is_caption_BL.shape[1] - 1
    learnt_BT = torch.ones_like(is_caption_BL[:, :num_slots])
    for token_offset in range(1 - recursion, 3):
        learnt_BT &= _shifted(is_caption_BL, token_offset)[:, :num_slots]
    return learnt_BT


def _shifted(mask_BL: torch.Tensor, offset: int) -> torch.Tensor:
    """`mask_BL` moved so that column i reads column i + offset; False where that column does not exist."""
    length = mask_BL.shape[1]
    moved_BL = torch.zeros_like(mask_BL)
    start, end = max(0, -offset), min(length, length - offset)
    if start < end:
        moved_BL[:, start:end] = mask_BL[:, start + offset : end + offset]
    return moved_BL


def num_learnt(is_caption_L: torch.Tensor, recursions: int) -> int:
    """Learnt slots of one window, summed over the first pass and all recursions."""
    return sum(int(learnt_slots(is_caption_L[None], recursion).sum()) for recursion in range(recursions + 1))
