"""One window as distillation sees it, the batch made of such windows, and the rule of which positions are learnt.

Owns the pairing of states, tokens and captions. It knows no model and no storage (`store.py`), and nothing of how a
caption was obtained (`capture.py`).

Shape letters: B windows, L text tokens (visual placeholders cut out), T = L - 1 drafter slots, M bridge tokens,
D hidden size.

    text token    0    1    2   ...  L-1
    target state  h0   h1   h2  ...  h(L-1)
    slot i of the drafter reads state i and token i+1, and predicts token i+2; its own output estimates state i+1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class WindowStates:
    """What is kept of one target pass over a prompt and its caption.

    `states_LD` are final-norm states of the text positions: the target's distributions follow from them through
    lm_head, exactly and for any vocabulary, so no log-probabilities are stored. `is_caption_L` marks the generated
    tokens. `bridge_MD` holds states of the bridge layer at a sample of the visual positions, in order.
    """

    token_ids_L: torch.Tensor
    states_LD: torch.Tensor
    is_caption_L: torch.Tensor
    bridge_MD: torch.Tensor


@dataclass(frozen=True)
class StateBatch:
    """Windows padded to the longest, in float32. Padding stands at the end of the text and of the bridge."""

    token_ids_BL: torch.Tensor
    states_BLD: torch.Tensor
    is_caption_BL: torch.Tensor
    bridge_BMD: torch.Tensor
    has_bridge_BM: torch.Tensor

    def to(self, device: torch.device) -> "StateBatch":
        return StateBatch(*(tensor.to(device) for tensor in vars(self).values()))


def collate(windows: Sequence[WindowStates]) -> StateBatch:
    """Pad windows into one batch. The bridge keeps at least one (masked) slot, so that its norm is always used."""
    bridges = [window.bridge_MD.float() for window in windows]
    width = windows[0].states_LD.shape[1]
    num_bridge = max(1, *(len(bridge) for bridge in bridges))
    bridge_BMD = torch.zeros(len(windows), num_bridge, width)
    has_bridge_BM = torch.zeros(len(windows), num_bridge, dtype=torch.bool)
    for row, bridge in enumerate(bridges):
        bridge_BMD[row, : len(bridge)] = bridge
        has_bridge_BM[row, : len(bridge)] = True
    return StateBatch(
        token_ids_BL=pad_sequence([w.token_ids_L.long() for w in windows], batch_first=True),
        states_BLD=pad_sequence([w.states_LD.float() for w in windows], batch_first=True),
        is_caption_BL=pad_sequence([w.is_caption_L for w in windows], batch_first=True),
        bridge_BMD=bridge_BMD,
        has_bridge_BM=has_bridge_BM,
    )


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
