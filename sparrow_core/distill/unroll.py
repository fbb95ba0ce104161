"""A drafter unrolled over whole captions in training: first pass (HSR), recursions (MTP), visual bridge (IVSB).

Owns what each pass reads and attends to. It knows neither optimiser nor storage.

Shape letters: B rows, L text tokens, T = L - 1 slots, M visual tokens, K keys, P passes, N learnt slots, D hidden
size, d head size, V vocabulary, H heads, G KV heads. Slots pair states and tokens as `states.py` draws them.

Keys of its own window that slot i of pass r sees (`recursion_keys`):

    "decoding"   visual | pass 0: slots <= i - r | pass k: slot i - r + k, for k = 1..r
                 the root of a draft stands at slot i - r; what lies before it is fed by the target, what follows by the
                 drafter, one pass deeper per slot: exactly what a drafted chain attends to
    "paper"      visual | pass r: slots <= i        (the whole sequence recomputed from the drafter's own states)

Visual keys are what the drafter will see in decoding (`DrafterConfig.sees`), or, for one that will see none, the bridge
states that IVSB shows in training alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from sparrow_core.config import DistillConfig
from sparrow_core.distill.batch import PADDING, TrainingBatch, collate, learnt_slots
from sparrow_core.distill.hidden_states import TrainingExample, VisualSource
from sparrow_core.distill.losses import combined
from sparrow_core.distill.store import TargetTables
from sparrow_core.drafters.network import DrafterAttention, DrafterLayer, SparrowDrafterModel


@dataclass(frozen=True)
class UnrollSums:
    """Over the learnt slots of a batch: the summed loss of all passes, and by pass how many slots were learnt, and at
    how many of them the drafter's first choice is the target's."""

    loss: torch.Tensor
    num_agreeing_P: torch.Tensor
    num_learnt_P: torch.Tensor


class _Keys(NamedTuple):
    """Rotated keys and values of one run of slots, [B, G, K, d]."""

    keys: torch.Tensor
    values: torch.Tensor


class _Visual(NamedTuple):
    """What one row shows of its videos: keys and values [1, G, M, d], whose they are [M], and what is added to all of
    the row's inputs [1, 1, D] (None: nothing)."""

    keys: torch.Tensor
    values: torch.Tensor
    window_M: torch.Tensor
    added_11D: torch.Tensor | None


class UnrolledDrafter(nn.Module):
    """The module that is trained: `drafter` learns; the target's embedding and lm_head are frozen beside it."""

    embed_tokens_VD: torch.Tensor
    lm_head_VD: torch.Tensor

    def __init__(self, drafter: SparrowDrafterModel, tables: TargetTables, config: DistillConfig) -> None:
        super().__init__()
        self.drafter = drafter
        self.config = config
        self.reads_visual = drafter.config.sees != "text" or drafter.bridge_norm is not None
        self.register_buffer("embed_tokens_VD", tables.embed_tokens_VD, persistent=False)
        self.register_buffer("lm_head_VD", tables.lm_head_VD, persistent=False)

    def collate(
        self, windows: Sequence[TrainingExample], shows_bridge: Sequence[bool], noise_seeds: Sequence[int]
    ) -> TrainingBatch:
        """The batch that this drafter learns from. What it sees in decoding is always shown."""
        sees, config = self.drafter.config.sees, self.config
        noises = None
        if config.state_noise:
            noises = [_noise(w.hidden_TD, config.state_noise, s) for w, s in zip(windows, noise_seeds, strict=True)]
        if sees == "text":
            return collate(windows, shows_bridge, "bridge", config.bridge_place, config.row_tokens, noises)
        source: VisualSource = "bridge" if sees == "bridge" else "embeddings"
        shows = [True] * len(windows)
        return collate(windows, shows, source, self.drafter.config.layout, config.row_tokens, noises)

    def forward(self, batch: TrainingBatch) -> UnrollSums:
        """Loss of all passes over one batch."""
        outputs_PBTD = self.unroll(batch)
        first_BT = learnt_slots(batch.is_caption_BL, 0)
        target_hidden_ND = batch.hidden_BLD[:, 1:][first_BT]
        with torch.no_grad():
            target_logits_NV = target_hidden_ND @ self.lm_head_VD.T
        loss = target_hidden_ND.new_zeros(())
        num_agreeing, num_learnt = [], []
        for recursion, outputs_BTD in enumerate(outputs_PBTD):
            learnt_BT = learnt_slots(batch.is_caption_BL, recursion)
            among_first_N = learnt_BT[first_BT]
            hidden_ND = outputs_BTD[learnt_BT]
            logits_NV = hidden_ND @ self.lm_head_VD.T
            wanted_NV = target_logits_NV[among_first_N]
            pass_loss = combined(hidden_ND, target_hidden_ND[among_first_N], logits_NV, wanted_NV, self.config.loss)
            loss = loss + self.config.recursion_weight**recursion * pass_loss
            num_agreeing.append((logits_NV.detach().argmax(-1) == wanted_NV.argmax(-1)).sum())
            num_learnt.append(among_first_N.sum())
        return UnrollSums(loss, torch.stack(num_agreeing), torch.stack(num_learnt))

    def unroll(self, batch: TrainingBatch) -> list[torch.Tensor]:
        """Outputs [B, T, D] of the first pass and of each recursion."""
        layer = self.drafter.layers[0]
        assert isinstance(layer, DrafterLayer)
        window_BT, is_first_BT1 = _windows_of_slots(batch.window_BL)
        positions_BT = batch.positions_BL[:, :-1]
        embeddings_BTD = functional.embedding(batch.token_ids_BL[:, 1:], self.embed_tokens_VD)
        true_BTD = batch.fed_BLD[:, :-1]
        visual_B = self._visual(layer.self_attn, batch) if self.reads_visual else []
        added = [visual.added_11D for visual in visual_B if visual.added_11D is not None]
        fed_BTD = true_BTD
        passes: list[_Keys] = []
        outputs: list[torch.Tensor] = []
        for recursion in range(self.config.recursions + 1):
            z_BTD = self.drafter.fuse(embeddings_BTD, fed_BTD)
            if added:
                z_BTD = z_BTD + torch.cat(added)
            queries, keys, values = layer.self_attn.project(z_BTD, positions_BT)
            passes.append(_Keys(keys, values))
            seen = passes if self.config.recursion_keys == "decoding" else passes[-1:]
            text = _Keys(*(torch.cat(runs, 2) for runs in zip(*seen, strict=True)))
            visible_BTK = self._visible(recursion, window_BT)
            attended_BHTd = _attended(queries, text, visible_BTK, visual_B, window_BT)
            outputs.append(layer.finish(z_BTD, attended_BHTd.transpose(1, 2).flatten(2)))
            estimated_BTD = torch.cat([true_BTD[:, :1], outputs[-1][:, :-1]], 1)
            fed_BTD = torch.where(is_first_BT1, true_BTD, estimated_BTD)
        return outputs

    def _visual(self, attention: DrafterAttention, batch: TrainingBatch) -> list[_Visual]:
        """Row by row, since videos differ in length by far more than captions do."""
        rows = []
        for row, num_shown in enumerate((batch.visual_window_BM != PADDING).sum(1).clamp(min=1).tolist()):
            own = slice(row, row + 1), slice(num_shown)
            window_1M = batch.visual_window_BM[own]
            seen = self.drafter.see(batch.visual_BMD[own], window_1M != PADDING)
            num_seen = seen.z_BMD.shape[1]
            keys, values = attention.keys_values(seen.z_BMD, batch.visual_positions_BM[own][:, :num_seen])
            window_1M = torch.where(seen.present_BM, window_1M[:, :num_seen], PADDING - 1)
            rows.append(_Visual(keys, values, window_1M[0], seen.added_B1D))
        return rows

    def _visible(self, recursion: int, window_BT: torch.Tensor) -> torch.Tensor:
        """The rule of the module docstring for the text of one pass: bool [B, T, K]. Padding sees padding, since a row
        that sees nothing would be nan."""
        is_own_BTT = window_BT[:, :, None] == window_BT[:, None]
        row_T1 = torch.arange(window_BT.shape[1], device=window_BT.device)[:, None]
        column_1T = row_T1.T
        if self.config.recursion_keys == "paper":
            runs = [column_1T <= row_T1]
        else:
            root_T1 = row_T1 - recursion
            runs = [column_1T <= root_T1, *(column_1T == root_T1 + depth for depth in range(1, recursion + 1))]
        return torch.cat([run & is_own_BTT for run in runs], 2)


def _attended(
    queries_BHTd: torch.Tensor,
    text: _Keys,
    visible_BTK: torch.Tensor,
    visual_B: Sequence[_Visual],
    window_BT: torch.Tensor,
) -> torch.Tensor:
    """Attention of all slots to the text that they see, and to what is shown of their own videos: [B, H, T, d]."""
    if not visual_B:
        mask_B1TK = visible_BTK[:, None]
        return functional.scaled_dot_product_attention(queries_BHTd, *text, mask_B1TK, enable_gqa=True)
    rows = []
    for row, visual in enumerate(visual_B):
        own = slice(row, row + 1)
        keys = torch.cat([visual.keys, text.keys[own]], 2)
        values = torch.cat([visual.values, text.values[own]], 2)
        is_own_TM = visual.window_M == window_BT[row, :, None]
        mask_TK = torch.cat([is_own_TM, visible_BTK[row]], 1)
        rows.append(functional.scaled_dot_product_attention(queries_BHTd[own], keys, values, mask_TK, enable_gqa=True))
    return torch.cat(rows)


def _noise(hidden_TD: torch.Tensor, largest: float, seed: int) -> torch.Tensor:
    """Uniform in [-largest, largest], of its own seed, so that it does not depend on who else is in the batch."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(hidden_TD.shape, generator=generator) * 2 - 1) * largest


def _windows_of_slots(window_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The window of each slot [B, T] (padding where a slot's two tokens are not of one), and whether it is the first
    slot of its window [B, T, 1]."""
    here_BT = window_BL[:, :-1]
    window_BT = torch.where(here_BT == window_BL[:, 1:], here_BT, PADDING)
    before_BT = functional.pad(here_BT[:, :-1], (1, 0), value=PADDING)
    return window_BT, (here_BT != before_BT)[..., None]
