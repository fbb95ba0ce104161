"""Facts about a draft that follow from its parents alone. Pure. N nodes, parents before children."""

import torch


def ancestors(parents_N: torch.Tensor) -> torch.Tensor:
    """Bool [N, N]: True where column is the row's node itself or one of its ancestors."""
    num_nodes = parents_N.numel()
    visible_NN = torch.eye(num_nodes, dtype=torch.bool)
    for node, parent in enumerate(parents_N.tolist()):
        if parent >= 0:
            visible_NN[node] |= visible_NN[parent]
    return visible_NN


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
