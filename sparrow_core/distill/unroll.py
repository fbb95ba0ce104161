"""A drafter unrolled over whole captions in training: first pass (HSR), recursions (MTP), visual bridge (IVSB).

Owns what each pass reads and attends to. It knows neither optimiser nor storage.

Shape letters: B windows, L text tokens, T = L - 1 slots, M bridge tokens, K keys, P passes, N learnt slots, D hidden
size, d head size, V vocabulary, H heads, G KV heads. Slots pair states and tokens as `states.py` draws them.

Keys that slot i of pass r sees (`recursion_keys`):

    "decoding"   bridge | pass 0: slots <= i - r | pass k: slot i - r + k, for k = 1..r
                 the root of a draft stands at slot i - r; what lies before it is fed by the target, what follows by the
                 drafter, one pass deeper per slot: exactly what a drafted chain attends to
    "paper"      bridge | pass r: slots <= i        (the whole sequence recomputed from the drafter's own states)
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from sparrow_core.config import DistillConfig
from sparrow_core.distill.losses import combined
from sparrow_core.distill.states import StateBatch, learnt_slots
from sparrow_core.distill.store import TargetTables
from sparrow_core.models.drafter import DrafterAttention, DrafterLayer, SparrowDrafterModel


@dataclass(frozen=True)
class UnrollSums:
    """Over the learnt slots of a batch: the summed loss of all passes, and by pass how many slots were learnt, and at
    how many of them the drafter's first choice is the target's."""

    loss: torch.Tensor
    num_agreeing_P: torch.Tensor
    num_learnt_P: torch.Tensor


@dataclass(frozen=True)
class _Keys:
    """Rotated keys and values of one run of slots, [B, G, K, d]."""

    keys: torch.Tensor
    values: torch.Tensor


class UnrolledDrafter(nn.Module):
    """The module that is trained: `drafter` learns; the target's embedding and lm_head are frozen beside it."""

    embed_tokens_VD: torch.Tensor
    lm_head_VD: torch.Tensor

    def __init__(self, drafter: SparrowDrafterModel, tables: TargetTables, config: DistillConfig) -> None:
        super().__init__()
        self.drafter = drafter
        self.config = config
        self.register_buffer("embed_tokens_VD", tables.embed_tokens_VD, persistent=False)
        self.register_buffer("lm_head_VD", tables.lm_head_VD, persistent=False)

    def forward(self, batch: StateBatch, shows_bridge_B: torch.Tensor) -> UnrollSums:
        """Loss of all passes over one batch. `shows_bridge_B` says which windows show their bridge states."""
        outputs_PBTD = self.unroll(batch, shows_bridge_B)
        first_BT = learnt_slots(batch.is_caption_BL, 0)
        target_states_ND = batch.states_BLD[:, 1:][first_BT]
        with torch.no_grad():
            target_logits_NV = target_states_ND @ self.lm_head_VD.T
        loss = target_states_ND.new_zeros(())
        num_agreeing, num_learnt = [], []
        for recursion, outputs_BTD in enumerate(outputs_PBTD):
            learnt_BT = learnt_slots(batch.is_caption_BL, recursion)
            among_first_N = learnt_BT[first_BT]
            states_ND = outputs_BTD[learnt_BT]
            logits_NV = states_ND @ self.lm_head_VD.T
            wanted_NV = target_logits_NV[among_first_N]
            pass_loss = combined(states_ND, target_states_ND[among_first_N], logits_NV, wanted_NV, self.config.loss)
            loss = loss + self.config.recursion_weight**recursion * pass_loss
            num_agreeing.append((logits_NV.detach().argmax(-1) == wanted_NV.argmax(-1)).sum())
            num_learnt.append(among_first_N.sum())
        return UnrollSums(loss, torch.stack(num_agreeing), torch.stack(num_learnt))

    def unroll(self, batch: StateBatch, shows_bridge_B: torch.Tensor) -> list[torch.Tensor]:
        """Outputs [B, T, D] of the first pass and of each recursion."""
        layer = self.drafter.layers[0]
        assert isinstance(layer, DrafterLayer)
        embeddings_BTD = functional.embedding(batch.token_ids_BL[:, 1:], self.embed_tokens_VD)
        fed_BTD = batch.states_BLD[:, :-1]
        num_slots = fed_BTD.shape[1]
        positions_BT = torch.arange(num_slots, device=fed_BTD.device).expand(fed_BTD.shape[:2])
        bridge, bridge_visible_BM = self._bridge_keys(layer.self_attn, batch, shows_bridge_B)
        passes: list[_Keys] = []
        outputs: list[torch.Tensor] = []
        for recursion in range(self.config.recursions + 1):
            z_BTD = self.drafter.fuse(embeddings_BTD, fed_BTD)
            queries, keys, values = layer.self_attn.project(z_BTD, positions_BT)
            passes.append(_Keys(keys, values))
            seen = passes if self.config.recursion_keys == "decoding" else passes[-1:]
            text_visible_TK = self._text_visible(recursion, num_slots, fed_BTD.device)
            runs = [*([bridge] if bridge else []), *seen]
            attended_BHTd = functional.scaled_dot_product_attention(
                queries,
                torch.cat([run.keys for run in runs], 2),
                torch.cat([run.values for run in runs], 2),
                attn_mask=_joined(bridge_visible_BM, text_visible_TK),
                enable_gqa=True,
            )
            outputs.append(layer.finish(z_BTD, attended_BHTd.transpose(1, 2).flatten(2)))
            fed_BTD = torch.cat([batch.states_BLD[:, :1], outputs[-1][:, :-1]], 1)
        return outputs

    def _bridge_keys(
        self, attention: DrafterAttention, batch: StateBatch, shows_bridge_B: torch.Tensor
    ) -> tuple[_Keys | None, torch.Tensor | None]:
        """Keys of the bridge states, placed just before the text at positions -M..-1, and who may see them [B, M]."""
        if self.drafter.bridge_norm is None:
            return None, None
        visible_BM = batch.has_bridge_BM & shows_bridge_B[:, None]
        places_BM = torch.arange(visible_BM.shape[1], device=visible_BM.device) - batch.has_bridge_BM.sum(1)[:, None]
        _, keys, values = attention.project(self.drafter.bridge_norm(batch.bridge_BMD), places_BM)
        return _Keys(keys, values), visible_BM

    def _text_visible(self, recursion: int, num_slots: int, device: torch.device) -> torch.Tensor:
        """The rule of the module docstring for one pass, without the bridge: bool [T, K]."""
        row_T1 = torch.arange(num_slots, device=device)[:, None]
        column_1T = torch.arange(num_slots, device=device)[None]
        if self.config.recursion_keys == "paper":
            return column_1T <= row_T1
        root_T1 = row_T1 - recursion
        own = [column_1T == root_T1 + depth for depth in range(1, recursion + 1)]
        return torch.cat([column_1T <= root_T1, *own], 1)


def _joined(bridge_visible_BM: torch.Tensor | None, text_visible_TK: torch.Tensor) -> torch.Tensor:
    """One mask over bridge and text keys, broadcastable to [B, H, T, K]."""
    if bridge_visible_BM is None:
        return text_visible_TK[None, None]
    batch, num_slots = bridge_visible_BM.shape[0], text_visible_TK.shape[0]
    bridge_BTM = bridge_visible_BM[:, None].expand(-1, num_slots, -1)
    return torch.cat([bridge_BTM, text_visible_TK.expand(batch, -1, -1)], 2)[:, None]
