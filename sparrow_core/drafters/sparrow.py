"""Sparrow as a `Drafter`: sessions that prefill on anchored text, draft on own hidden states and commit true ones.

The committed slots of a session's cache hold what the drafter sees of the video, if anything, and text positions fed
with the target's hidden states. Drafted rows are fed with the drafter's own, so they are rolled back, and the accepted
tokens run again with the target's (`cached_drafting`).
Shape letters: A axes of a position, D hidden size, G KV heads, K keys and values, L layers, M visual tokens, R rows of
a pass, S slots of a sequence, T text tokens, d head size.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import torch

from sparrow_core.decoding.cache import CacheShape
from sparrow_core.decoding.drafter import DraftJob, PromptContext, VisualContext, VisualNeeds
from sparrow_core.decoding.prefill import text_slots
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.anchors import interpolated_positions, pair_positions, shifted_pairs, visual_positions
from sparrow_core.drafters.cached_drafting import CachedSession, NewRows, commit_waiting, propose_drafts
from sparrow_core.drafters.fused_network import DrafterSteps
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.types import Draft


class SparrowDrafter:
    """The drafter's network beside the target whose embeddings and lm_head it borrows."""

    name = "sparrow"

    def __init__(self, model: SparrowDrafterModel, target: TargetModel) -> None:
        self.model = model.to(device=target.info.device, dtype=target.info.dtype).eval()
        self._steps = DrafterSteps(self.model)
        self.target = target
        config, info = model.config, target.info
        self.cache_shape = CacheShape(1, config.num_kv_heads, config.head_dim, info.device, info.dtype)
        self.visual_needs = _needs(config)

    @classmethod
    def untrained(cls, target: TargetModel) -> "SparrowDrafter":
        """The default drafter of `target` with random weights: useless drafts at the cost of trained ones."""
        return cls(SparrowDrafterModel(DrafterConfig.for_target(target.info)), target)

    def with_interpolation(self, longest_span: int) -> "SparrowDrafter":
        """The same weights with position interpolation of longer videos (`DrafterConfig.longest_span`)."""
        model = copy(self.model)
        model.config = replace(model.config, longest_span=longest_span)
        return SparrowDrafter(model, self.target)

    def open(self, context: PromptContext, max_new_tokens: int) -> "SparrowSession":
        visual = context.visual if self.visual_needs else None
        has_visual = visual is not None and not visual.is_text_S.all()
        seen = _Visual(self.model, visual) if visual and has_visual else None
        session = SparrowSession(self.cache_shape, context, max_new_tokens, seen)
        if session.waiting_ids:
            commit_waiting([session], self.target, self._run)
        return session

    def propose(self, jobs: Sequence[DraftJob["SparrowSession"]]) -> list[Draft]:
        return propose_drafts(jobs, self.target, self._run)

    def _run(self, rows: NewRows["SparrowSession"]) -> torch.Tensor:
        """Accepted tokens are fed with the target's hidden states, drafted ones with the drafter's outputs."""
        hidden_RD = rows.parent_outputs()
        if hidden_RD is None:
            hidden_RD = torch.cat([session.waiting_hidden_RD for session in rows.sessions])
        return self._steps.step(rows.embeddings_RD, hidden_RD, rows.positions_R, rows.sequences, _added(rows))


def _needs(config: DrafterConfig) -> VisualNeeds | None:
    if config.sees == "text":
        return None
    return VisualNeeds((config.bridge_layer,) if config.sees == "bridge" else ())


def _added(rows: NewRows["SparrowSession"]) -> torch.Tensor | None:
    """What the sessions add to the inputs of their rows [R, D]; None if no session adds anything."""
    if all(session.added_1D is None for session in rows.sessions):
        return None
    nothing_1D = torch.zeros_like(rows.embeddings_RD[:1])
    parts = [nothing_1D if session.added_1D is None else session.added_1D for session in rows.sessions]
    return torch.cat([part.expand(rows_of.num_rows, -1) for part, rows_of in zip(parts, rows.sequences, strict=True)])


class _Visual:
    """What the drafter sees of a prompt's video: keys and values, and what is added to the inputs of all text (None:
    nothing). `pair_positions` are the positions of the text beside the video."""

    def __init__(self, model: SparrowDrafterModel, context: VisualContext) -> None:
        config = model.config
        embeddings_SD = context.embedded.embeddings_SD
        device = embeddings_SD.device
        slots_M = (~context.is_text_S).nonzero()[:, 0]
        source_SD = context.taps[config.bridge_layer] if config.sees == "bridge" else embeddings_SD
        present_1M = torch.ones(1, len(slots_M), dtype=torch.bool, device=device)
        seen = model.see(source_SD[slots_M.to(device)][None], present_1M)
        # The text includes the token behind the prompt: the first root.
        text_T, visual_M = torch.cat([text_slots(context.is_text_S), torch.tensor([len(context.is_text_S)])]), slots_M
        if config.layout == "sequence" and config.longest_span:
            interpolated = interpolated_positions(context.is_text_S, config.longest_span)
            text_T, visual_M = interpolated[text_T].round().long(), interpolated[slots_M]
        positions_M = visual_positions(text_T, visual_M, config.layout)[: seen.z_BMD.shape[1]]
        self.pair_positions = pair_positions(text_T, config.layout).tolist()
        attention = model.layers[0].self_attn
        keys, values = attention.keys_values(seen.z_BMD, positions_M[None].to(device))  # type: ignore[operator,union-attr]
        self.keys_values_KGMd = torch.stack([keys[0], values[0]])
        self.added_1D = None if seen.added_B1D is None else seen.added_B1D[0]

    def __len__(self) -> int:
        return self.keys_values_KGMd.shape[2]


class SparrowSession(CachedSession):
    """One sequence. Each waiting token is kept with the target's hidden state at the token before it."""

    def __init__(
        self, shape: CacheShape, context: PromptContext, max_new_tokens: int, visual: _Visual | None = None
    ) -> None:
        token_ids_R, self.waiting_hidden_RD = shifted_pairs(context.token_ids_T, context.hidden_TD)
        num_visual = len(visual) if visual else 0
        # Twice the text leaves slots for drafted rows behind the committed ones: at most the frontier of every level.
        cache = shape.cache(num_visual + 2 * (context.token_ids_T.numel() + max_new_tokens) + 1024)
        *positions, next_position = visual.pair_positions if visual else range(len(token_ids_R) + 1)
        super().__init__(cache, next_position)
        self.waiting_ids, self.waiting_positions = token_ids_R.tolist(), positions
        self.last_hidden_1D = context.hidden_TD[-1:]
        self.added_1D = visual.added_1D if visual else None
        if visual:
            new_LKGMd, _ = cache.extend(num_visual)
            new_LKGMd[0].copy_(visual.keys_values_KGMd)
            cache.commit(list(range(num_visual)))

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held for committed positions."""
        data = self.cache.data_LKGSd
        return data[..., : self.cache.length, :].numel() * data.element_size()

    def append_root(self, root: int) -> None:
        super().append_root(root)
        self.waiting_hidden_RD = torch.cat([self.waiting_hidden_RD, self.last_hidden_1D])

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        super().commit(token_ids, hidden_RD)
        self.waiting_hidden_RD = torch.cat([self.waiting_hidden_RD, hidden_RD[:-1]])
        self.last_hidden_1D = hidden_RD[-1:]

    def clear_waiting(self) -> None:
        super().clear_waiting()
        self.waiting_hidden_RD = self.last_hidden_1D[:0]
