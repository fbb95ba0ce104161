"""Positions of text and visual tokens in a drafter's sequence, counted by hand."""

import pytest
import torch

from sparrow_core.drafters.anchors import Layout, pair_positions, visual_positions

# t t v v v t t v v t
TEXT, VISUAL = torch.tensor([0, 1, 5, 6, 9]), torch.tensor([2, 3, 4, 7, 8])


@pytest.mark.parametrize(
    ("layout", "pairs", "visual"),
    [
        ("sequence", [0, 4, 5, 8], [1, 2, 3, 6, 7]),
        ("before", [0, 1, 2, 3], [-5, -4, -3, -2, -1]),
        ("at_cut", [0, 1, 2, 3], [0.25, 0.5, 0.75, 2 + 1 / 3, 2 + 2 / 3]),
    ],
)
def test_positions_with_two_spans(layout: Layout, pairs: list[int], visual: list[float]) -> None:
    assert pair_positions(TEXT, layout).tolist() == pairs
    assert visual_positions(TEXT, VISUAL, layout).tolist() == pytest.approx(visual)
