"""A drafter unrolled over whole captions in training: first pass (HSR), recursions (MTP), visual bridge (IVSB).

Owns what each pass reads and attends to. It knows neither optimiser nor storage.

Slots pair hidden states and tokens as `hidden_states.py` draws them. `recursion_keys` decides which keys of its own
example slot i of pass r sees:

    "decoding"   visual | pass 0: slots <= i - r | pass k: slot i - r + k, for k = 1..r
                 The root of a draft is at slot i - r. Slots up to it are fed with the target's hidden states, those
                 behind it with the drafter's, one pass deeper a slot: exactly the keys of a drafted chain.
    "paper"      visual | pass r: slots <= i        (the whole sequence, recomputed from the drafter's own outputs)

Visual keys are those that the drafter sees in decoding (`DrafterConfig.sees`). A drafter that sees none in decoding may
be shown the bridge layer's hidden states in training alone (IVSB).

Shape letters: B rows of a training batch, D hidden size, E text tokens of a training example (here of a whole row),
G KV heads, H query heads, M visual tokens, T text tokens that the drafter reads: E - 1 slots, V vocabulary, X keys that
one training pass attends to, Y positions that are learnt from, Z training passes: the first one and its recursions,
d head size.
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
from sparrow_core.distill.target_tables import TargetTables
from sparrow_core.drafters.network import DrafterAttention, DrafterLayer, SparrowDrafterModel


@dataclass(frozen=True)
class UnrollSums:
    """Sums over the learnt slots of a batch: the loss of all passes; for each pass, the learnt slots, and those of them
    at which the drafter's first choice is the target's."""

    loss: torch.Tensor
    num_agreeing_Z: torch.Tensor
    num_learnt_Z: torch.Tensor


class _Keys(NamedTuple):
    """Rotated keys and values of slots, [B, G, X, d]."""

    keys: torch.Tensor
    values: torch.Tensor


class _Visual(NamedTuple):
    """Visual tokens shown in one row: keys and values [1, G, M, d], the examples that they are of, and what is added to
    all inputs of the row (None: nothing)."""

    keys: torch.Tensor
    values: torch.Tensor
    example_M: torch.Tensor
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
        self, examples: Sequence[TrainingExample], shows_bridge: Sequence[bool], noise_seeds: Sequence[int]
    ) -> TrainingBatch:
        """The batch that this drafter learns from. Visual tokens that it sees in decoding are always shown."""
        sees, config = self.drafter.config.sees, self.config
        noises = None
        if config.state_noise:
            noises = [_noise(e.hidden_TD, config.state_noise, s) for e, s in zip(examples, noise_seeds, strict=True)]
        if sees == "text":
            return collate(examples, shows_bridge, "bridge", config.bridge_place, config.row_tokens, noises)
        source: VisualSource = "bridge" if sees == "bridge" else "embeddings"
        shows = [True] * len(examples)
        return collate(examples, shows, source, self.drafter.config.layout, config.row_tokens, noises)

    def forward(self, batch: TrainingBatch) -> UnrollSums:
        """Loss of all passes over one batch."""
        outputs_ZBTD = self.unroll(batch)
        first_BT = learnt_slots(batch.is_caption_BE, 0)
        target_hidden_YD = batch.hidden_BED[:, 1:][first_BT]
        with torch.no_grad():
            target_logits_YV = target_hidden_YD @ self.lm_head_VD.T
        loss = target_hidden_YD.new_zeros(())
        num_agreeing, num_learnt = [], []
        for recursion, outputs_BTD in enumerate(outputs_ZBTD):
            learnt_BT = learnt_slots(batch.is_caption_BE, recursion)
            among_first_Y = learnt_BT[first_BT]
            hidden_YD = outputs_BTD[learnt_BT]
            logits_YV = hidden_YD @ self.lm_head_VD.T
            wanted_YV = target_logits_YV[among_first_Y]
            pass_loss = combined(hidden_YD, target_hidden_YD[among_first_Y], logits_YV, wanted_YV, self.config.loss)
            loss = loss + self.config.recursion_weight**recursion * pass_loss
            num_agreeing.append((logits_YV.detach().argmax(-1) == wanted_YV.argmax(-1)).sum())
            num_learnt.append(among_first_Y.sum())
        return UnrollSums(loss, torch.stack(num_agreeing), torch.stack(num_learnt))

    def unroll(self, batch: TrainingBatch) -> list[torch.Tensor]:
        """Outputs [B, T, D] of the first pass and of each recursion."""
        layer = self.drafter.layers[0]
        assert isinstance(layer, DrafterLayer)
        example_BT, is_first_BT1 = _examples_of_slots(batch.example_BE)
        positions_BT = batch.positions_BE[:, :-1]
        embeddings_BTD = functional.embedding(batch.token_ids_BE[:, 1:], self.embed_tokens_VD)
        true_BTD = batch.fed_BED[:, :-1]
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
            text = _Keys(*(torch.cat(parts, 2) for parts in zip(*seen, strict=True)))
            visible_BTX = self._visible(recursion, example_BT)
            attended_BHTd = _attended(queries, text, visible_BTX, visual_B, example_BT)
            outputs.append(layer.finish(z_BTD, attended_BHTd.transpose(1, 2).flatten(2)))
            estimated_BTD = torch.cat([true_BTD[:, :1], outputs[-1][:, :-1]], 1)
            fed_BTD = torch.where(is_first_BT1, true_BTD, estimated_BTD)
        return outputs

    def _visual(self, attention: DrafterAttention, batch: TrainingBatch) -> list[_Visual]:
        """Each row's visual tokens, not padded to one length: videos differ in length far more than captions do."""
        rows = []
        for row, num_shown in enumerate((batch.visual_example_BM != PADDING).sum(1).clamp(min=1).tolist()):
            own = slice(row, row + 1), slice(num_shown)
            example_1M = batch.visual_example_BM[own]
            seen = self.drafter.see(batch.visual_BMD[own], example_1M != PADDING)
            num_seen = seen.z_BMD.shape[1]
            keys, values = attention.keys_values(seen.z_BMD, batch.visual_positions_BM[own][:, :num_seen])
            example_1M = torch.where(seen.present_BM, example_1M[:, :num_seen], PADDING - 1)
            rows.append(_Visual(keys, values, example_1M[0], seen.added_B1D))
        return rows

    def _visible(self, recursion: int, example_BT: torch.Tensor) -> torch.Tensor:
        """The rule of the module docstring for the text keys of one pass: bool [B, T, X]. Padding sees padding, since
        attention over no key would be nan."""
        is_own_BTT = example_BT[:, :, None] == example_BT[:, None]
        row_T1 = torch.arange(example_BT.shape[1], device=example_BT.device)[:, None]
        column_1T = row_T1.T
        if self.config.recursion_keys == "paper":
            parts = [column_1T <= row_T1]
        else:
            root_T1 = row_T1 - recursion
            parts = [column_1T <= root_T1, *(column_1T == root_T1 + depth for depth in range(1, recursion + 1))]
        return torch.cat([part & is_own_BTT for part in parts], 2)


def _attended(
    queries_BHTd: torch.Tensor,
    text: _Keys,
    visible_BTX: torch.Tensor,
    visual_B: Sequence[_Visual],
    example_BT: torch.Tensor,
) -> torch.Tensor:
    """Attention of all slots to the text keys that they see and to the shown visual tokens of their own examples:
    [B, H, T, d]."""
    if not visual_B:
        mask_B1TX = visible_BTX[:, None]
        return functional.scaled_dot_product_attention(queries_BHTd, *text, mask_B1TX, enable_gqa=True)
    rows = []
    for row, visual in enumerate(visual_B):
        own = slice(row, row + 1)
        keys = torch.cat([visual.keys, text.keys[own]], 2)
        values = torch.cat([visual.values, text.values[own]], 2)
        is_own_TM = visual.example_M == example_BT[row, :, None]
        mask_TX = torch.cat([is_own_TM, visible_BTX[row]], 1)
        rows.append(functional.scaled_dot_product_attention(queries_BHTd[own], keys, values, mask_TX, enable_gqa=True))
    return torch.cat(rows)


def _noise(hidden_TD: torch.Tensor, largest: float, seed: int) -> torch.Tensor:
    """Uniform in [-largest, largest]; seeded by example, so that it does not depend on the rest of the batch."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(hidden_TD.shape, generator=generator) * 2 - 1) * largest


def _examples_of_slots(example_BE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The example of each slot [B, T] (PADDING if the slot's two tokens are of different examples), and whether it is
    the first slot of its example [B, T, 1]."""
    here_BT = example_BE[:, :-1]
    example_BT = torch.where(here_BT == example_BE[:, 1:], here_BT, PADDING)
    before_BT = functional.pad(here_BT[:, :-1], (1, 0), value=PADDING)
    return example_BT, (here_BT != before_BT)[..., None]
