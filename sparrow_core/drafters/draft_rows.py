"""The rows of a growing draft in a drafter's KV cache: their slots, what each of them sees, and their outputs.

Shape letters: D hidden size, F nodes of one level of a draft, P pending slots of a cache.
"""

import torch

from sparrow_core.decoding.cache import KVCache
from sparrow_core.drafters.tree_growth import Level


class DraftRows:
    """One draft behind the committed slots of a cache. The root is committed, so it takes no pending slot."""

    def __init__(self, cache: KVCache, root_output_D: torch.Tensor) -> None:
        self._cache = cache
        self._slots_of_path: dict[int, list[int]] = {0: []}
        self._last_nodes, self._last_outputs_FD = [0], root_output_D[None]

    def place(self, level: Level) -> torch.Tensor:
        """Give the next slots to the level's nodes -> which pending slots each of them sees, bool [F, P]."""
        first_slot = self._cache.pending
        for row, (node, parent) in enumerate(zip(level.nodes, level.parents, strict=True)):
            self._slots_of_path[node] = [*self._slots_of_path[parent], first_slot + row]
        num_slots = first_slot + len(level.nodes)
        seen = [set(self._slots_of_path[node]) for node in level.nodes]
        return torch.tensor([[slot in slots for slot in range(num_slots)] for slots in seen])

    def depths(self, level: Level) -> list[int]:
        """Distance of each placed node from the root."""
        return [len(self._slots_of_path[node]) for node in level.nodes]

    def remember(self, level: Level, outputs_FD: torch.Tensor) -> None:
        """Keep the drafter's outputs at a level's nodes for the level below."""
        self._last_nodes, self._last_outputs_FD = level.nodes, outputs_FD

    def parent_outputs(self, level: Level) -> torch.Tensor:
        """The drafter's outputs at the parents of a level's nodes, which are of the level above it [F, D]."""
        output_D = dict(zip(self._last_nodes, self._last_outputs_FD, strict=True))
        return torch.stack([output_D[parent] for parent in level.parents])
