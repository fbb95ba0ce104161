"""Text anchoring (VATA): which tokens of a multimodal sequence the drafter reads, in which pairs, at which positions.

Pure functions.

    sequence   t0 t1 [v v v v v] t2 t3 [v v] t4        any number of visual spans, anywhere
    compacted  t0 t1             t2 t3       t4        positions 0..T-1, plain RoPE
    pairs      (h0,e1) (h1,e2)   (h2,e3) (h3,e4)       hidden state i with embedding i+1; (h4, root) waits for the root

Visual tokens that stand beside the text, in training or for drafters that see the video, need positions too. A layout
sets those of pairs and visual tokens:

    before     visual tokens at -M..-1, text pairs at 0, 1, ...
    at_cut     text pairs at 0, 1, ...; the visual tokens of a span lie evenly in the gap that the span left
    sequence   everything at its position in the sequence, minus one, like the pairs

Shape letters: D hidden size, M visual tokens, S slots of a sequence, T text tokens.
"""

from typing import Literal

import torch

Layout = Literal["before", "at_cut", "sequence"]


def shifted_pairs(token_ids_T: torch.Tensor, hidden_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the drafter reads at compacted positions 0..T-2: token ids 1..T-1 and hidden states 0..T-2 [T-1, D]."""
    return token_ids_T[1:], hidden_TD[:-1]


def pair_positions(text_slots_T: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Positions of the pairs of text tokens at these slots: int64 [T-1]. Pairs of adjacent text are one apart."""
    if layout == "sequence":
        return text_slots_T[1:] - 1
    return torch.arange(len(text_slots_T) - 1)


def interpolated_positions(is_text_S: torch.Tensor, longest_span: int) -> torch.Tensor:
    """Position interpolation: every span of more than `longest_span` visual tokens is scaled down to so many positions.

    Returns the positions of all slots and of the one behind them: float64 [S + 1].
    """
    _, span_S, size_of_span = is_text_S.unique_consecutive(return_inverse=True, return_counts=True)
    scale_S = (longest_span / size_of_span[span_S].double()).clamp(max=1.0)
    steps_S = torch.where(is_text_S, 1.0, scale_S)
    return torch.cat([steps_S.new_zeros(1), steps_S.cumsum(0)])


def visual_positions(text_slots_T: torch.Tensor, visual_slots_M: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Positions of visual tokens beside the pairs of the text: float32 [M]. `visual_slots_M` must be increasing."""
    if layout == "sequence":
        return visual_slots_M.float() - 1
    if layout == "before":
        return torch.arange(len(visual_slots_M)).float() - len(visual_slots_M)
    # The pair of text token n has position n - 1, so the gap before that token lies between n - 2 and n - 1.
    num_before_M = torch.searchsorted(text_slots_T, visual_slots_M)
    _, span_M, size_of_span = num_before_M.unique_consecutive(return_inverse=True, return_counts=True)
    first_of_span = size_of_span.cumsum(0) - size_of_span
    rank_M = torch.arange(len(visual_slots_M)) - first_of_span[span_M]
    return num_before_M - 2 + (rank_M + 1) / (size_of_span[span_M] + 1)
