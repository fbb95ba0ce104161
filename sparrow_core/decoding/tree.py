"""Draft trees: ancestors, depths and children of nodes, from their parents alone. Pure.

Parents precede children, and the root's parent is -1. Shape letters: N nodes of a draft.
"""

import torch


def ancestors(parents_N: torch.Tensor) -> torch.Tensor:
    """Bool [N, N]: True where the column's node is the row's node or one of its ancestors."""
    seen: list[set[int]] = []
    for node, parent in enumerate(parents_N.tolist()):
        seen.append({node} | (seen[parent] if parent >= 0 else set()))
    return torch.tensor([[column in nodes for column in range(len(seen))] for nodes in seen])


def depths(parents_N: torch.Tensor) -> torch.Tensor:
    """Edges from the root to each node: int64 [N]."""
    depth: list[int] = []
    for parent in parents_N.tolist():
        depth.append(0 if parent < 0 else depth[parent] + 1)
    return torch.tensor(depth)


def children(parents_N: torch.Tensor) -> list[list[int]]:
    """Children of each node in proposal order."""
    result: list[list[int]] = [[] for _ in range(parents_N.numel())]
    for node, parent in enumerate(parents_N.tolist()):
        if parent >= 0:
            result[parent].append(node)
    return result
