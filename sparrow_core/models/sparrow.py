"""Sparrow as a `Drafter`: sessions that prefill on anchored text, draft on own states and commit true ones.

The stable cache only ever holds positions fed with the target's states: what was speculated is rolled back, and the
accepted tokens run again with their true states at the start of the next round, together with the new root.
Shape letters: R new rows, D hidden size, V vocabulary, P pending slots of the cache.
"""

from collections.abc import Sequence

import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.anchors import shifted_pairs
from sparrow_core.decoding.attention import causal_mask
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafting import TextContext, Turn
from sparrow_core.decoding.proposal import grow
from sparrow_core.decoding.target import TargetModel
from sparrow_core.models.drafter import SparrowDrafterModel
from sparrow_core.types import Draft


class SparrowDrafter:
    """The drafter's network beside the target whose embeddings and lm_head it borrows."""

    name = "sparrow"

    def __init__(self, model: SparrowDrafterModel, target: TargetModel) -> None:
        self.model = model.to(device=target.info.device, dtype=target.info.dtype).eval()
        self.target = target

    def open(self, context: TextContext, max_new_tokens: int) -> "SparrowSession":
        return SparrowSession(self, context, max_new_tokens)


class SparrowSession:
    """One sequence. Pairs (token, state before it) wait in `_token_ids`, `_states_RD` until the next root is known."""

    def __init__(self, drafter: SparrowDrafter, context: TextContext, max_new_tokens: int) -> None:
        self._model, self._target = drafter.model, drafter.target
        config, info = drafter.model.config, drafter.target.info
        # Speculated rows beyond the stable part: at most the frontier of every level, bounded by doubling the room.
        capacity = 2 * (context.token_ids_T.numel() + max_new_tokens) + 1024
        self._cache = KVCache(1, config.num_kv_heads, config.head_dim, capacity, device=info.device, dtype=info.dtype)
        token_ids_R, states_RD = shifted_pairs(context.token_ids_T, context.states_TD)
        self._token_ids: list[int] = token_ids_R.tolist()
        self._states_RD = states_RD
        self._last_state_1D = context.states_TD[-1:]
        self._read_stable()

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held for committed positions."""
        data = self._cache.data_LKGSD
        return data[..., : self._cache.length, :].numel() * data.element_size()

    def _read_stable(self) -> torch.Tensor:
        """Run the waiting pairs with their true states and keep them -> outputs [R, D]."""
        if not self._token_ids:
            return self._last_state_1D[:0]
        ids_R = torch.tensor(self._token_ids, device=self._last_state_1D.device)
        z_RD = self._model.fuse(self._target.embed_tokens(ids_R), self._states_RD)
        num_rows = len(self._token_ids)
        positions_R = torch.arange(num_rows, device=z_RD.device) + self._cache.length
        outputs_RD = self._model.step(z_RD, positions_R, self._cache, causal_mask(num_rows, z_RD.device))
        self._cache.commit(list(range(num_rows)))
        self._token_ids, self._states_RD = [], self._last_state_1D[:0]
        return outputs_RD

    def propose(self, turn: Turn, shape: DraftConfig) -> Draft:
        self._token_ids = [*self._token_ids, turn.root]
        self._states_RD = torch.cat([self._states_RD, self._last_state_1D])
        root_1D = self._read_stable()[-1:]
        speculation = _Speculation(self._model, self._target, self._cache, root_1D)
        draft = grow(self._target.logits(root_1D)[0], speculation.expand, turn, shape)
        self._cache.rollback()
        return draft

    def commit(self, token_ids: Sequence[int], states_RD: torch.Tensor) -> None:
        self._token_ids = list(token_ids[1:])
        self._states_RD = states_RD[:-1]
        self._last_state_1D = states_RD[-1:]


class _Speculation:
    """The drafter's own rows of one round: which slot and output each expanded node has."""

    def __init__(
        self, model: SparrowDrafterModel, target: TargetModel, cache: KVCache, root_output_1D: torch.Tensor
    ) -> None:
        self._model, self._target, self._cache = model, target, cache
        self._output_D = {0: root_output_1D[0]}
        self._ancestor_slots: dict[int, list[int]] = {0: []}

    def expand(self, nodes: list[int], tokens: list[int], parents: list[int]) -> torch.Tensor:
        """Run one level's nodes, each fed with its parent's output -> logits [R, V]."""
        first_slot = self._cache.pending
        for row, (node, parent) in enumerate(zip(nodes, parents, strict=True)):
            self._ancestor_slots[node] = [*self._ancestor_slots[parent], first_slot + row]
        device = self._output_D[0].device
        visible_RP = torch.zeros(len(nodes), first_slot + len(nodes), dtype=torch.bool)
        for row, node in enumerate(nodes):
            visible_RP[row, self._ancestor_slots[node]] = True
        depth_R = torch.tensor([len(self._ancestor_slots[node]) for node in nodes], device=device)
        states_RD = torch.stack([self._output_D[parent] for parent in parents])
        z_RD = self._model.fuse(self._target.embed_tokens(torch.tensor(tokens, device=device)), states_RD)
        positions_R = self._cache.length - 1 + depth_R
        outputs_RD = self._model.step(z_RD, positions_R, self._cache, visible_RP.to(device))
        self._output_D.update(zip(nodes, outputs_RD, strict=True))
        return self._target.logits(outputs_RD)
