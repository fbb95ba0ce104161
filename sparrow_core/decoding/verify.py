"""Verification, where a token is accepted: the drafted tokens that the target keeps, and the bonus token. Pure.

Two rules, both lossless for any draft:

* Matching. The target's own token at every node is known (argmax, or Gumbel-max with noise keyed by position), so the
  walk follows it for as long as it was drafted. The tokens are those of the autoregressive loop.
* Rejection sampling (Leviathan et al. 2023; without replacement among siblings, Jeon et al. 2024). A child drawn from q
  is accepted with probability min(1, p/q); each rejection replaces p by norm(max(p - q, 0)) and removes the child from
  q. The tokens follow the target's distribution, provided that the number of a node's children does not depend on which
  tokens were drawn for them.

Shape letters: N nodes of a draft, V vocabulary.
"""

import torch

from sparrow_core.decoding.noise import Stream, uniform
from sparrow_core.decoding.sampling import choose, probabilities
from sparrow_core.decoding.tree import children, depths
from sparrow_core.types import Draft, Sampling, Verdict


def verify(draft: Draft, logits_NV: torch.Tensor, sampling: Sampling, position: int, round_index: int) -> Verdict:
    """Verify a draft by the target's logits at each of its nodes.

    `position` is the index, among generated tokens, of the token after the root. `round_index` is part of the key of
    the rejection rule's random numbers, which must be new in every round.
    """
    if sampling.temperature == 0 or sampling.rule == "shared_noise" or len(draft) == 1:
        positions_N = depths(draft.parents_N).to(logits_NV.device) + position
        return match(draft, choose(logits_NV, sampling, positions_N).cpu())
    uniforms_N2 = uniform(
        sampling.seed,
        Stream.ACCEPTANCE,
        torch.tensor(round_index),
        torch.arange(len(draft))[:, None],
        torch.arange(2),
    )
    return reject(draft, probabilities(logits_NV, sampling).cpu(), uniforms_N2)


def match(draft: Draft, choices_N: torch.Tensor) -> Verdict:
    """Follow `choices_N`, the target's own token after each node (int64), for as long as it was drafted."""
    tokens, choices, below = draft.tokens_N.tolist(), choices_N.tolist(), children(draft.parents_N)
    path = [0]
    while True:
        chosen = choices[path[-1]]
        agreeing = next((child for child in below[path[-1]] if tokens[child] == chosen), None)
        if agreeing is None:
            return Verdict(tuple(path), chosen)
        path.append(agreeing)


def reject(draft: Draft, target_NV: torch.Tensor, uniforms_N2: torch.Tensor) -> Verdict:
    """Walk down the tree by rejection sampling.

    `target_NV` and `draft.proposal_NV` are probabilities. `uniforms_N2[n, 0]` decides whether node n is accepted,
    `uniforms_N2[n, 1]` draws the bonus token after it.
    """
    assert draft.proposal_NV is not None, "rejection sampling needs the distribution that the draft was drawn from"
    tokens, below = draft.tokens_N.tolist(), children(draft.parents_N)
    path = [0]
    while True:
        node = path[-1]
        target_V, proposal_V = target_NV[node], draft.proposal_NV[node].to(target_NV)
        for child in below[node]:
            token = tokens[child]
            if uniforms_N2[child, 0] * proposal_V[token] < target_V[token]:
                path.append(child)
                break
            target_V = _normalised((target_V - proposal_V).clamp_min(0), target_V)
            proposal_V = proposal_V.index_fill(0, torch.tensor([token]), 0)
            proposal_V = _normalised(proposal_V, proposal_V)
        if path[-1] == node:
            return Verdict(tuple(path), _draw(target_V, float(uniforms_N2[node, 1])))


def _normalised(weights_V: torch.Tensor, otherwise_V: torch.Tensor) -> torch.Tensor:
    """Weights scaled to sum to 1; `otherwise_V` if rounding has left none (p equals q everywhere)."""
    total = weights_V.sum()
    return weights_V / total if total > 0 else otherwise_V


def _draw(probability_V: torch.Tensor, u: float) -> int:
    """Draw one token by inverting the cumulative distribution; never one of probability zero."""
    cumulative_V = probability_V.cumsum(0)
    index = int(torch.searchsorted(cumulative_V, u * cumulative_V[-1], right=True))
    return min(index, int(probability_V.nonzero()[-1]))
