"""The losslessness theorem as code: which drafted tokens the target accepts, and the token after them.

Pure, tensor in, tensor out. Two rules, both exact for any draft:

* Matching. The target's own token is known at every node (argmax, or Gumbel-max under noise keyed by position), so the
  walk follows it for as long as it was drafted. The result is the autoregressive loop's, token for token.
* Rejection (Leviathan et al. 2023; without replacement among siblings, Jeon et al. 2024). A child drawn from q is
  accepted with probability min(1, p/q); each refusal replaces p by norm(max(p - q, 0)) and takes the child out of q.
  The result has the target's distribution, provided that the number of a node's children does not depend on which
  tokens were drawn for them.

Shape letters: N nodes of the draft, V vocabulary.
"""

import torch

from sparrow_core.decoding.noise import Stream, uniform
from sparrow_core.decoding.sampling import choose, probabilities
from sparrow_core.decoding.tree import children, depths
from sparrow_core.types import Draft, Sampling, Verdict


def verify(draft: Draft, logits_NV: torch.Tensor, sampling: Sampling, position: int, round_index: int) -> Verdict:
    """Judge a draft by the target's logits after each of its nodes.

    `position` is the index among generated tokens of the token that follows the root; `round_index` keys the
    randomness of the rejection rule, which must be fresh in every round.
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
    """Follow the target's own choices (int64 [N], the token after each node) for as long as they were drafted."""
    tokens, choices, below = draft.tokens_N.tolist(), choices_N.tolist(), children(draft.parents_N)
    path = [0]
    while True:
        chosen = choices[path[-1]]
        agreeing = next((child for child in below[path[-1]] if tokens[child] == chosen), None)
        if agreeing is None:
            return Verdict(tuple(path), chosen)
        path.append(agreeing)


def reject(draft: Draft, target_NV: torch.Tensor, uniforms_N2: torch.Tensor) -> Verdict:
    """Walk down by rejection sampling.

    `target_NV` and `draft.proposal_NV` are probabilities; `uniforms_N2[n, 0]` decides on node n, `[n, 1]` draws the
    bonus token below it.
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
    """Weights scaled to sum to 1; `otherwise_V` where rounding has left nothing (p equals q everywhere)."""
    total = weights_V.sum()
    return weights_V / total if total > 0 else otherwise_V


def _draw(probability_V: torch.Tensor, u: float) -> int:
    """Inverse-CDF draw of one token; never one of probability zero."""
    cumulative_V = probability_V.cumsum(0)
    index = int(torch.searchsorted(cumulative_V, u * cumulative_V[-1], right=True))
    return min(index, int(probability_V.nonzero()[-1]))
