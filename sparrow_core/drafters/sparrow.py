"""Sparrow as a `Drafter`: sessions that prefill on anchored text, draft on own states and commit true ones.

The stable cache only ever holds what the drafter sees of the video, if anything, and positions fed with the target's
states: what was speculated is rolled back, and the accepted tokens run again with their true states at the start of the
next round, together with the new root.
Rows of all sequences go through the network together. Shape letters: R new rows, M visual tokens, D hidden size, V
vocabulary.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import torch

from sparrow_core.decoding.cache import CacheShape
from sparrow_core.decoding.drafter import DraftJob, PromptContext, VisualContext, VisualNeeds
from sparrow_core.decoding.prefill import text_slots
from sparrow_core.decoding.target import SequenceRows, TargetModel
from sparrow_core.drafters.anchors import pair_positions, shifted_pairs, squeezed_positions, visual_positions
from sparrow_core.drafters.draft_rows import DraftRows
from sparrow_core.drafters.fused_network import DrafterSteps
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.drafters.tree_growth import Level, grow_drafts
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
        """Of the default geometry for `target`, with random weights: it drafts nonsense at the price of sense."""
        return cls(SparrowDrafterModel(DrafterConfig.for_target(target.info)), target)

    def squeezing(self, longest_span: int) -> "SparrowDrafter":
        """The same weights, but longer videos take so many places (`DrafterConfig.longest_span`)."""
        model = copy(self.model)
        model.config = replace(model.config, longest_span=longest_span)
        return SparrowDrafter(model, self.target)

    def open(self, context: PromptContext, max_new_tokens: int) -> "SparrowSession":
        visual = context.visual if self.visual_needs else None
        is_seen = visual is not None and not visual.is_text_S.all()
        seen = _Visual(self.model, visual) if visual and is_seen else None
        session = SparrowSession(self.cache_shape, context, max_new_tokens, seen)
        self._feed_waiting([session])
        return session

    def propose(self, jobs: Sequence[DraftJob["SparrowSession"]]) -> list[Draft]:
        sessions = [job.session for job in jobs]
        for job in jobs:
            job.session.append_root(job.draft_context.root)
        roots_JD = self._feed_waiting(sessions)
        logits_JV = self.target.logits(roots_JD)
        speculations = [_Speculation(session, root_D) for session, root_D in zip(sessions, roots_JD, strict=True)]

        def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
            return self._expand(speculations, levels)

        requests = [(logits_V, job.draft_context, job.shape) for logits_V, job in zip(logits_JV, jobs, strict=True)]
        drafts = grow_drafts(requests, expand)
        for session in sessions:
            session.cache.rollback()
        return drafts

    def _feed_waiting(self, sessions: Sequence["SparrowSession"]) -> torch.Tensor:
        """Run the sessions' waiting pairs with their true states and keep them -> the last output of each [J, D]."""
        reading = [session for session in sessions if session.waiting_ids]
        if not reading:
            return torch.empty(0)
        ids_R = torch.tensor([token for session in reading for token in session.waiting_ids])
        hidden_RD = torch.cat([session.waiting_hidden_RD for session in reading])
        counts = [len(session.waiting_ids) for session in reading]
        device = hidden_RD.device
        positions_R = torch.tensor([place for session in reading for place in session.waiting_positions])
        rows = [SequenceRows(s.cache, n) for n, s in zip(counts, reading, strict=True)]
        embeddings_RD = self.target.embed_tokens(ids_R.to(device))
        added_RD = _added(reading, counts)
        outputs_RD = self._steps.step(embeddings_RD, hidden_RD, positions_R.to(device), rows, added_RD)
        for session, count in zip(reading, counts, strict=True):
            session.cache.commit(list(range(count)))
            session.clear_waiting()
        return outputs_RD[torch.tensor(counts).cumsum(0).to(device) - 1]

    def _expand(self, speculations: Sequence["_Speculation"], levels: dict[int, Level]) -> dict[int, torch.Tensor]:
        """Run one level of every draft, each node fed with its parent's output -> logits by draft [F, V]."""
        device = self.target.info.device
        rows = [speculations[number].rows.place(level).to(device) for number, level in levels.items()]
        sequences = [
            SequenceRows(speculations[number].session.cache, len(levels[number].nodes), visible_RP)
            for number, visible_RP in zip(levels, rows, strict=True)
        ]
        hidden_RD = torch.cat([speculations[number].parents(level) for number, level in levels.items()])
        depth_R = [depth for number, level in levels.items() for depth in speculations[number].positions(level)]
        ids_R = torch.tensor([token for level in levels.values() for token in level.tokens], device=device)
        positions_R = torch.tensor(depth_R, device=device)
        sizes = [len(level.nodes) for level in levels.values()]
        added_RD = _added([speculations[number].session for number in levels], sizes)
        outputs_RD = self._steps.step(self.target.embed_tokens(ids_R), hidden_RD, positions_R, sequences, added_RD)
        logits = self.target.logits(outputs_RD).split(sizes)
        for (number, level), outputs_FD in zip(levels.items(), outputs_RD.split(sizes), strict=True):
            speculations[number].remember(level, outputs_FD)
        return dict(zip(levels, logits, strict=True))


def _needs(config: DrafterConfig) -> VisualNeeds | None:
    if config.sees == "text":
        return None
    return VisualNeeds((config.bridge_layer,) if config.sees == "bridge" else ())


def _added(sessions: Sequence["SparrowSession"], counts: Sequence[int]) -> torch.Tensor | None:
    """What is added to the sessions' rows [R, D], of which each has so many; None if nothing is added to any."""
    if all(session.added_1D is None for session in sessions):
        return None
    nothing_1D = torch.zeros_like(sessions[0].last_hidden_1D)
    parts = [nothing_1D if session.added_1D is None else session.added_1D for session in sessions]
    return torch.cat([part.expand(count, -1) for part, count in zip(parts, counts, strict=True)])


class _Visual:
    """What the drafter sees of a prompt's video: keys and values [2, G, M, head_dim], and what is added to all text."""

    def __init__(self, model: SparrowDrafterModel, context: VisualContext) -> None:
        config = model.config
        embeddings_SD = context.embedded.embeddings_SD
        device = embeddings_SD.device
        slots_M = (~context.is_text_S).nonzero()[:, 0]
        source_SD = context.taps[config.bridge_layer] if config.sees == "bridge" else embeddings_SD
        present_1M = torch.ones(1, len(slots_M), dtype=torch.bool, device=device)
        seen = model.see(source_SD[slots_M.to(device)][None], present_1M)
        # Where the text and the next token stand, and the visual tokens.
        text_T, visual_M = torch.cat([text_slots(context.is_text_S), torch.tensor([len(context.is_text_S)])]), slots_M
        if config.layout == "sequence" and config.longest_span:
            squeezed_S = squeezed_positions(context.is_text_S, config.longest_span)
            text_T, visual_M = squeezed_S[text_T].round().long(), squeezed_S[slots_M]
        positions_M = visual_positions(text_T, visual_M, config.layout)[: seen.z_BMD.shape[1]]
        self.pair_positions = pair_positions(text_T, config.layout).tolist()
        attention = model.layers[0].self_attn
        keys, values = attention.keys_values(seen.z_BMD, positions_M[None].to(device))  # type: ignore[operator,union-attr]
        self.keys_values = torch.stack([keys[0], values[0]])
        self.added_1D = None if seen.added_B1D is None else seen.added_B1D[0]

    def __len__(self) -> int:
        return self.keys_values.shape[2]


class SparrowSession:
    """One sequence. Pairs (token, state before it) wait until the next root is known and are then read for good."""

    def __init__(
        self, shape: CacheShape, context: PromptContext, max_new_tokens: int, visual: _Visual | None = None
    ) -> None:
        # Speculated rows beyond the stable part: at most the frontier of every level, bounded by doubling the room.
        num_visual = len(visual) if visual else 0
        self.cache = shape.cache(num_visual + 2 * (context.token_ids_T.numel() + max_new_tokens) + 1024)
        token_ids_R, hidden_RD = shifted_pairs(context.token_ids_T, context.hidden_TD)
        self.waiting_ids: list[int] = token_ids_R.tolist()
        *self.waiting_positions, self.next_position = range(len(self.waiting_ids) + 1)
        self.added_1D: torch.Tensor | None = None
        if visual:
            new_LKGRd, _ = self.cache.extend(num_visual)
            new_LKGRd[0].copy_(visual.keys_values)
            self.cache.commit(list(range(num_visual)))
            *self.waiting_positions, self.next_position = visual.pair_positions
            self.added_1D = visual.added_1D
        self.waiting_hidden_RD = hidden_RD
        self.last_hidden_1D = context.hidden_TD[-1:]
        self._has_root = False

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held for committed positions."""
        data = self.cache.data_LKGSD
        return data[..., : self.cache.length, :].numel() * data.element_size()

    def append_root(self, root: int) -> None:
        """Let the root wait behind the accepted tokens, with the true state before it."""
        self._wait([root])
        self.waiting_hidden_RD = torch.cat([self.waiting_hidden_RD, self.last_hidden_1D])
        self._has_root = True

    def clear_waiting(self) -> None:
        self.waiting_ids, self.waiting_positions, self.waiting_hidden_RD = [], [], self.last_hidden_1D[:0]

    def _wait(self, token_ids: Sequence[int]) -> None:
        self.waiting_ids = [*self.waiting_ids, *token_ids]
        self.waiting_positions += range(self.next_position, self.next_position + len(token_ids))
        self.next_position += len(token_ids)

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        if not self._has_root:  # a round without a draft
            self.append_root(token_ids[0])
        self._has_root = False
        self._wait(token_ids[1:])
        self.waiting_hidden_RD = torch.cat([self.waiting_hidden_RD, hidden_RD[:-1]])
        self.last_hidden_1D = hidden_RD[-1:]


class _Speculation:
    """The drafter's own rows of one draft, and the output of each expanded node."""

    def __init__(self, session: SparrowSession, root_output_D: torch.Tensor) -> None:
        self.session, self.rows = session, DraftRows(session.cache)
        self._output_D = {0: root_output_D}

    def positions(self, level: Level) -> list[int]:
        return [self.session.next_position - 1 + depth for depth in self.rows.depths(level)]

    def parents(self, level: Level) -> torch.Tensor:
        """Outputs of the level's parents [F, D]."""
        return torch.stack([self._output_D[parent] for parent in level.parents])

    def remember(self, level: Level, outputs_FD: torch.Tensor) -> None:
        self._output_D.update(zip(level.nodes, outputs_FD, strict=True))
