"""Facts about a draft that follow from its parents alone. Pure. N nodes, parents before children."""

import torch


def ancestors(parents_N: torch.Tensor) -> torch.Tensor:
    """Bool [N, N]: True where column is the row's node itself or one of its ancestors."""
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
