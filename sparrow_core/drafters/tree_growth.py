"""Draft trees grown from a drafter's logits, level by level, for many sequences at once.

Each verification rule has its own growth. Greedy decoding and shared noise accept a node that equals the target's own
choice, so the nodes may be chosen by their scores (EAGLE-2's dynamic tree). Rejection sampling needs siblings that are
true draws from the drafter, so none may be dropped for its value, and the size of each level is fixed beforehand.
Shape letters: F nodes of one level of a draft, N nodes of a draft, V vocabulary, W candidates kept of one row.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.drafter import DraftContext
from sparrow_core.decoding.noise import Stream, gumbel
from sparrow_core.decoding.sampling import filtered_logits, noisy_scores
from sparrow_core.types import Draft


@dataclass(frozen=True)
class Level:
    """Nodes of one draft that are expanded together, with their tokens and their parents in the level above."""

    nodes: list[int]
    tokens: list[int]
    parents: list[int]


Expand = Callable[[dict[int, Level]], dict[int, torch.Tensor]]
"""A level of each draft, by the draft's number -> the drafter's logits after the nodes of that level [F, V]."""

Growing = Generator[Level, torch.Tensor, Draft]


@dataclass
class _Growth:
    """A tree under construction. Lists are indexed by node; node 0 is the root."""

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [-1])
    scores: list[float] = field(default_factory=lambda: [0.0])

    def add(self, token: int, parent: int, score: float) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        self.scores.append(score)
        return len(self.tokens) - 1

    def level(self, frontier: list[int]) -> Level:
        return Level(frontier, [self.tokens[n] for n in frontier], [self.parents[n] for n in frontier])


def grow_drafts(requests: Sequence[tuple[torch.Tensor, DraftContext, DraftConfig]], expand: Expand) -> list[Draft]:
    """A draft for each request: the drafter's logits after the root [V], the draft context, and the largest shape.

    All drafts grow in step, so that the drafter runs once a level. A draft ends where the drafter's logits are nan.
    """
    growing = {number: _grow(*request) for number, request in enumerate(requests)}
    drafts: dict[int, Draft] = {}
    logits_FV: dict[int, torch.Tensor] = {}
    while growing:
        levels: dict[int, Level] = {}
        for number, growth in list(growing.items()):
            try:
                levels[number] = growth.send(logits_FV[number]) if logits_FV else next(growth)
            except StopIteration as stop:
                drafts[number] = stop.value
                del growing[number]
        logits_FV = expand(levels) if levels else {}
    return [drafts[number] for number in range(len(requests))]


def _grow(root_logits_V: torch.Tensor, draft_context: DraftContext, shape: DraftConfig) -> Growing:
    if draft_context.sampling.temperature > 0 and draft_context.sampling.rule == "rejection":
        return _grow_drawn(root_logits_V, draft_context, shape)
    return _grow_dynamic(root_logits_V, draft_context, shape)


def _grow_dynamic(root_logits_V: torch.Tensor, draft_context: DraftContext, shape: DraftConfig) -> Growing:
    """EAGLE-2: expand the `width` nodes of each level with the highest scores, then keep the `total` highest of all.

    A node's score is the log-probability of its path under the drafter, with the noise that the target's choice gets.
    """
    growth, frontier, logits_FV = _Growth([draft_context.root]), [0], root_logits_V[None]
    for depth in range(shape.depth):
        position_F = torch.full((len(frontier),), draft_context.position + depth, device=logits_FV.device)
        score_FV = noisy_scores(logits_FV, draft_context.sampling, position_F).log_softmax(dim=-1)
        best_FW = score_FV.topk(min(shape.width, score_FV.shape[-1]), dim=-1)
        level = [
            growth.add(token, parent, growth.scores[parent] + score)
            for parent, scores, tokens in zip(frontier, best_FW.values.tolist(), best_FW.indices.tolist(), strict=True)
            for score, token in zip(scores, tokens, strict=True)
            if score > float("-inf")
        ]
        frontier = sorted(level, key=lambda node: -growth.scores[node])[: shape.width]
        if depth + 1 == shape.depth or not frontier:
            break
        logits_FV = yield growth.level(frontier)
    # A child's score is never above its parent's, and the sort is stable, so every kept node's parent is kept.
    kept = sorted(sorted(range(len(growth.tokens)), key=lambda node: -growth.scores[node])[: shape.total])
    index_of = {node: index for index, node in enumerate(kept)}
    return Draft(
        torch.tensor([growth.tokens[node] for node in kept]),
        torch.tensor([index_of.get(growth.parents[node], -1) for node in kept]),
    )


def _grow_drawn(root_logits_V: torch.Tensor, draft_context: DraftContext, shape: DraftConfig) -> Growing:
    """Siblings are drawn without replacement (Gumbel top-k); each level has (total - 1) / depth nodes.

    How many children a node gets depends on the levels up to its own alone: the better half of a level get two each.
    """
    growth, frontier, logits_FV = _Growth([draft_context.root]), [0], root_logits_V[None]
    level_size = (shape.total - 1) // shape.depth
    proposals: dict[int, torch.Tensor] = {}
    for depth in range(shape.depth):
        filtered_FV = filtered_logits(logits_FV, draft_context.sampling)
        log_q_FV = filtered_FV.log_softmax(dim=-1)
        num_children = level_size if depth == 0 else min(2, level_size)
        node_F1 = torch.tensor(frontier, device=logits_FV.device)[:, None]
        round_11 = torch.full_like(node_F1[:1], draft_context.round_index)
        vocabulary_V = torch.arange(logits_FV.shape[-1], device=logits_FV.device)
        noise_FV = gumbel(draft_context.sampling.seed, Stream.PROPOSAL, round_11, node_F1, vocabulary_V)
        drawn_FW = (log_q_FV + noise_FV).topk(min(num_children, log_q_FV.shape[-1]), dim=-1)
        level = []
        for row, parent in enumerate(frontier):
            proposals[parent] = log_q_FV[row].exp()
            for noisy, token in zip(drawn_FW.values[row].tolist(), drawn_FW.indices[row].tolist(), strict=True):
                if noisy > float("-inf"):
                    level.append(growth.add(token, parent, growth.scores[parent] + float(log_q_FV[row, token])))
        if depth + 1 == shape.depth or not level:
            break
        by_score = sorted(level, key=lambda node: -growth.scores[node])
        frontier = sorted(by_score[: max(1, level_size // 2)])
        logits_FV = yield growth.level(frontier)
    proposal_NV = log_q_FV.new_zeros(len(growth.tokens), log_q_FV.shape[-1])
    for node, proposal_V in proposals.items():
        proposal_NV[node] = proposal_V
    return Draft(torch.tensor(growth.tokens), torch.tensor(growth.parents), proposal_NV)
