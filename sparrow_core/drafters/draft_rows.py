"""Where the nodes of a draft under way stand in the cache of a drafter that reads them level by level.

Shape letters: F nodes of a level, P pending slots of the cache.
"""

import torch

from sparrow_core.decoding.cache import KVCache
from sparrow_core.drafters.tree_growth import Level


class DraftRows:
    """Slots of one draft's nodes behind what is committed, the root among it."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self._slots_of_path: dict[int, list[int]] = {0: []}

    def place(self, level: Level) -> torch.Tensor:
        """Give the level's nodes the next slots -> what each sees of the pending slots, bool [F, P]."""
        first_slot = self.cache.pending
        for row, (node, parent) in enumerate(zip(level.nodes, level.parents, strict=True)):
            self._slots_of_path[node] = [*self._slots_of_path[parent], first_slot + row]
        num_slots = first_slot + len(level.nodes)
        seen = [set(self._slots_of_path[node]) for node in level.nodes]
        return torch.tensor([[slot in slots for slot in range(num_slots)] for slots in seen])

    def depths(self, level: Level) -> list[int]:
        """How far below the root each node is."""
        return [len(self._slots_of_path[node]) for node in level.nodes]
