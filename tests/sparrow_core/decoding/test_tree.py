"""Ancestors, depths and children of a tree drawn by hand.

        0
       / \\
      1   2
     / \\   \\
    3   4   5
"""

import torch

from sparrow_core.decoding.tree import ancestors, children, depths

PARENTS = torch.tensor([-1, 0, 0, 1, 1, 2])


def test_ancestors_include_the_node_itself() -> None:
    seen = [set(row.nonzero()[:, 0].tolist()) for row in ancestors(PARENTS)]
    assert seen == [{0}, {0, 1}, {0, 2}, {0, 1, 3}, {0, 1, 4}, {0, 2, 5}]


def test_depths_and_children() -> None:
    assert depths(PARENTS).tolist() == [0, 1, 1, 2, 2, 2]
    assert children(PARENTS) == [[1, 2], [3, 4], [5], [], [], []]
