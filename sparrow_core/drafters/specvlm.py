"""SpecVLM (arXiv 2508.16201): the target drafts for itself over a tenth of the visual tokens. Nothing is trained.

Which tokens stay: those that get most of the target's own attention from the text behind the video, until that is 40 %
of what all get; the rest evenly spread over the video. They keep their positions.
Shape letters: S prompt slots, K kept slots, R new rows, V vocabulary, A axes of a position.
"""

from collections.abc import Sequence

import torch

from sparrow_core.config import PrefillConfig
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafter import DraftJob, PromptContext, VisualContext, VisualNeeds
from sparrow_core.decoding.target import SequenceRows, TargetModel
from sparrow_core.drafters.draft_rows import DraftRows
from sparrow_core.drafters.tree_growth import Level, grow_drafts
from sparrow_core.types import Draft

ATTENDED_MASS = 0.4  # of the attention to visual tokens, as in the released code


def kept_slots(is_text_S: torch.Tensor, attention_S: torch.Tensor, share: float) -> torch.Tensor:
    """All text slots and a share of the visual ones, in order: int64 [K]."""
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
    """The target itself. The attention of all its layers counts alike, as in the released code."""

    name = "specvlm"

    def __init__(self, target: TargetModel, share: float = 0.1) -> None:
        self.target = target
        self._share = share
        self.visual_needs = VisualNeeds(text_tap_layers=tuple(range(1, target.info.num_layers)))

    def open(self, context: PromptContext, max_new_tokens: int) -> "SpecVLMSession":
        visual, shape = context.visual, self.target.info.cache_shape
        if visual is None:  # nothing is known but the text: costs are being measured
            return SpecVLMSession(shape.cache(2 * max_new_tokens + 1024), position=0)
        kept_K = kept_slots(visual.is_text_S, self.attention(visual), self._share)
        cache = shape.cache(len(kept_K) + 2 * max_new_tokens + 1024)
        embedded = visual.embedded
        for chunk in kept_K.to(embedded.embeddings_SD.device).split(PrefillConfig().chunk_tokens):
            rows = (SequenceRows(cache, len(chunk)),)
            self.target.forward(embedded.embeddings_SD[chunk], embedded.positions_AS[:, chunk], rows)
            cache.commit(list(range(len(chunk))))
        return SpecVLMSession(cache, len(visual.is_text_S) + embedded.position_offset)

    def attention(self, visual: VisualContext) -> torch.Tensor:
        """How much the text behind the last visual token attends to every slot: float32 [S] on the CPU, averaged over
        layers and heads."""
        visual_slots = (~visual.is_text_S).nonzero()[:, 0].tolist()
        num_behind = len(visual.is_text_S) - (visual_slots[-1] if visual_slots else 0) - 1
        positions_AR = visual.embedded.positions_AS[:, -num_behind:]
        of_layers = []
        for layer, keys_GSd in enumerate(visual.keys_LGSd, start=1):
            read = visual.text_taps[layer - 1] if layer > 1 else visual.embedded.embeddings_SD
            of_layers.append(self.target.attention(layer, read[-num_behind:], positions_AR, keys_GSd))
        return torch.stack(of_layers).mean(0).cpu()

    def propose(self, jobs: Sequence[DraftJob["SpecVLMSession"]]) -> list[Draft]:
        for job in jobs:
            job.session.wait([job.draft_context.root])
        sessions = [job.session for job in jobs]
        sequences = [SequenceRows(session.cache, len(session.waiting)) for session in sessions]
        positions = [place for s in sessions for place in range(s.position - len(s.waiting), s.position)]
        logits = self._read([token for s in sessions for token in s.waiting], positions, sequences)
        for session in sessions:
            session.cache.commit(list(range(len(session.waiting))))
            session.waiting = []
        rows = [DraftRows(session.cache) for session in sessions]

        def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
            sequences = [
                SequenceRows(rows[n].cache, len(level.nodes), rows[n].place(level).to(self.target.info.device))
                for n, level in levels.items()
            ]
            positions = [
                sessions[n].position - 1 + depth for n, level in levels.items() for depth in rows[n].depths(level)
            ]
            logits = self._read([token for level in levels.values() for token in level.tokens], positions, sequences)
            return dict(zip(levels, logits, strict=True))

        requests = [(after[-1], job.draft_context, job.shape) for after, job in zip(logits, jobs, strict=True)]
        drafts = grow_drafts(requests, expand)
        for session in sessions:
            session.cache.rollback()
        return drafts

    def _read(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[SequenceRows]
    ) -> tuple[torch.Tensor, ...]:
        """Logits after new rows, by sequence [R, V]."""
        info = self.target.info
        embeddings_RD = self.target.embed_tokens(torch.tensor(tokens, device=info.device))
        positions_AR = torch.tensor(positions, device=info.device).expand(info.position_axes, -1)
        hidden_RD = self.target.forward(embeddings_RD, positions_AR, sequences).hidden_RD
        return self.target.logits(hidden_RD).split([sequence.num_rows for sequence in sequences])


class SpecVLMSession:
    """A cache of the thinned prompt and the accepted tokens; those that are not in it yet wait for the next root.

    `position` is that of the next token, on every axis.
    """

    def __init__(self, cache: KVCache, position: int) -> None:
        self.cache, self.position = cache, position
        self.waiting: list[int] = []
        self._has_root = False

    def wait(self, token_ids: Sequence[int]) -> None:
        """Let tokens wait to be read."""
        self.waiting += token_ids
        self.position += len(token_ids)
        self._has_root = True

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        self.wait(token_ids[1:] if self._has_root else token_ids)
        self._has_root = False
