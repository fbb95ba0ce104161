"""Text anchoring (VATA): which positions of a multimodal sequence the drafter sees, and how it pairs them. Pure.

    sequence   t0 t1 [v v v v v] t2 t3 [v v] t4        any number of visual spans, anywhere
    compacted  t0 t1             t2 t3       t4        positions 0..T-1, plain RoPE
    pairs      (h0,e1) (h1,e2)   (h2,e3) (h3,e4)       state i with embedding i+1; (h4, root) waits for the root

Shape letters: S sequence slots, T text positions, D hidden size.
"""

import torch

from sparrow_core.errors import ConfigError


def text_slots(is_text_S: torch.Tensor) -> torch.Tensor:
    """Slots of the text positions in reading order: int64 [T]. Raises ConfigError where there is none."""
    slots_T = is_text_S.nonzero()[:, 0]
    if slots_T.numel() == 0:
        raise ConfigError("the prompt has no text token; a drafter needs at least one to anchor on")
    return slots_T


def shifted_pairs(token_ids_T: torch.Tensor, states_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the drafter reads at compacted positions 0..T-2: token ids 1..T-1 [T-1] and states 0..T-2 [T-1, D]."""
    return token_ids_T[1:], states_TD[:-1]
