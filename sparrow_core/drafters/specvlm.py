"""SpecVLM (arXiv 2508.16201): the target drafts for itself over a tenth of the visual tokens, without any training.

The kept tokens are first those that get most of the target's own attention from the text behind the video, up to 40 %
of the attention that all visual tokens get; the rest are evenly spread over the video. They keep their positions.
Shape letters: A axes of a position, D hidden size, G KV heads, L layers, M visual tokens, R rows of a pass, S slots of
a sequence, d head size.
"""

from collections.abc import Sequence

import torch

from sparrow_core.config import PrefillConfig
from sparrow_core.decoding.drafter import DraftJob, PromptContext, VisualContext, VisualNeeds
from sparrow_core.decoding.target import SequenceRows, TargetModel
from sparrow_core.drafters.cached_drafting import CachedSession, NewRows, propose_drafts
from sparrow_core.types import Draft

ATTENDED_MASS = 0.4  # share of the attention to visual tokens, as in the released code


def kept_slots(is_text_S: torch.Tensor, attention_S: torch.Tensor, share: float) -> torch.Tensor:
    """All text slots and `share` of the visual ones, in increasing order: int64 [number kept]."""
    visual_M = (~is_text_S).nonzero()[:, 0]
    num_kept = round(share * len(visual_M))
    best = attention_S[visual_M].sort(descending=True)
    num_attended = int((best.values.cumsum(0) < ATTENDED_MASS * best.values.sum()).sum()) + 1
    by_attention = visual_M[best.indices[: min(num_attended, num_kept)]]
    rest = visual_M[~torch.isin(visual_M, by_attention)]
    num_even = min(num_kept - len(by_attention), len(rest))
    evenly = rest[((torch.arange(num_even) + 0.5) * len(rest) / max(1, num_even)).long()]
    return torch.cat([is_text_S.nonzero()[:, 0], by_attention, evenly]).sort().values


class SpecVLMDrafter:
    """The target as its own drafter. All layers' attention weighs the same in the choice of tokens, as in the released
    code."""

    name = "specvlm"

    def __init__(self, target: TargetModel, share: float = 0.1) -> None:
        self.target = target
        self._share = share
        self.visual_needs = VisualNeeds(text_tap_layers=tuple(range(1, target.info.num_layers)))

    def open(self, context: PromptContext, max_new_tokens: int) -> CachedSession:
        visual, shape = context.visual, self.target.info.cache_shape
        if visual is None:  # the engine measures costs on text alone, without a prompt
            return CachedSession(shape.cache(2 * max_new_tokens + 1024), next_position=0)
        kept = kept_slots(visual.is_text_S, self.attention(visual), self._share)
        cache = shape.cache(len(kept) + 2 * max_new_tokens + 1024)
        embedded = visual.embedded
        for chunk in kept.to(embedded.embeddings_SD.device).split(PrefillConfig().chunk_tokens):
            rows = (SequenceRows(cache, len(chunk)),)
            self.target.forward(embedded.embeddings_SD[chunk], embedded.positions_AS[:, chunk], rows)
            cache.commit(list(range(len(chunk))))
        return CachedSession(cache, len(visual.is_text_S) + embedded.position_offset)

    def attention(self, visual: VisualContext) -> torch.Tensor:
        """Attention of the text behind the last visual token to every slot, averaged over layers, heads and that text:
        float32 [S] on the CPU."""
        visual_slots = (~visual.is_text_S).nonzero()[:, 0].tolist()
        num_behind = len(visual.is_text_S) - (visual_slots[-1] if visual_slots else 0) - 1
        positions_AR = visual.embedded.positions_AS[:, -num_behind:]
        of_layers = []
        for layer, keys_GSd in enumerate(visual.keys_LGSd, start=1):
            inputs = visual.text_taps[layer - 1] if layer > 1 else visual.embedded.embeddings_SD
            of_layers.append(self.target.attention(layer, inputs[-num_behind:], positions_AR, keys_GSd))
        return torch.stack(of_layers).mean(0).cpu()

    def propose(self, jobs: Sequence[DraftJob[CachedSession]]) -> list[Draft]:
        return propose_drafts(jobs, self.target, self._run)

    def _run(self, rows: NewRows[CachedSession]) -> torch.Tensor:
        """The target's own pass. It reads no hidden states, so accepted and drafted tokens are alike."""
        positions_AR = rows.positions_R.expand(self.target.info.position_axes, -1)
        return self.target.forward(rows.embeddings_RD, positions_AR, rows.sequences).hidden_RD
