"""Losses of distillation: each compares the drafter with the target at the positions that are learnt from.

Every function returns a sum over positions, never a mean: the trainer divides by the number of learnt positions in the
whole global batch, so that the loss does not depend on padding or on how a batch is split over workers. The functions
are named like their weights in `LossConfig`.

Shape letters: D hidden size, V vocabulary, W candidates kept of one row, Y positions that are learnt from.
"""

import torch
from torch.nn import functional

from sparrow_core.config import LossConfig


def soft_cross_entropy(logits_YV: torch.Tensor, target_logits_YV: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the drafter against the target's whole distribution at temperature 1, in nats, summed."""
    target_probs_YV = target_logits_YV.float().softmax(-1)
    return -(target_probs_YV * logits_YV.float().log_softmax(-1)).sum()


def probability_l1(logits_YV: torch.Tensor, target_logits_YV: torch.Tensor) -> torch.Tensor:
    """Sum of |p - q| over the vocabulary: twice the probability that rejection sampling rejects a drafted token."""
    return (logits_YV.float().softmax(-1) - target_logits_YV.float().softmax(-1)).abs().sum()


def state_smooth_l1(hidden_YD: torch.Tensor, target_hidden_YD: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between hidden states (transition at 1), averaged over features and summed over positions."""
    per_feature_YD = functional.smooth_l1_loss(hidden_YD.float(), target_hidden_YD.float(), reduction="none")
    return per_feature_YD.mean(-1).sum()


def ranking(logits_YV: torch.Tensor, target_logits_YV: torch.Tensor, num_ranked: int) -> torch.Tensor:
    """Listwise ranking (Plackett-Luce): the negative log-probability that the drafter draws the target's `num_ranked`
    likeliest tokens in the target's order, without replacement. In nats, summed."""
    order_YW = target_logits_YV.topk(min(num_ranked, target_logits_YV.shape[-1]), dim=-1).indices
    drafted_YW = logits_YV.float().gather(-1, order_YW)
    not_yet_drawn_YW = drafted_YW.flip(-1).logcumsumexp(-1).flip(-1)
    return (not_yet_drawn_YW - drafted_YW).sum()


def combined(
    hidden_YD: torch.Tensor,
    target_hidden_YD: torch.Tensor,
    logits_YV: torch.Tensor,
    target_logits_YV: torch.Tensor,
    weights: LossConfig,
) -> torch.Tensor:
    """Weighted sum of the losses; a loss of weight 0 is not computed."""
    total = logits_YV.new_zeros(())
    if weights.soft_cross_entropy:
        total = total + weights.soft_cross_entropy * soft_cross_entropy(logits_YV, target_logits_YV)
    if weights.state_smooth_l1:
        total = total + weights.state_smooth_l1 * state_smooth_l1(hidden_YD, target_hidden_YD)
    if weights.ranking:
        total = total + weights.ranking * ranking(logits_YV, target_logits_YV, weights.ranked_tokens)
    if weights.probability_l1:
        total = total + weights.probability_l1 * probability_l1(logits_YV, target_logits_YV)
    return total
