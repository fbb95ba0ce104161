"""Losses of distillation, written plainly: each compares the drafter with the target at the masked positions only.

Every function returns a sum over positions, never a mean: the trainer divides by the number of positions in the whole
global batch, so that the loss does not depend on how a batch is split over workers or padded.

Shape letters: N positions that count, D hidden size, V vocabulary.
"""

import torch
from torch.nn import functional

from sparrow_core.config import LossConfig


def soft_cross_entropy(logits_NV: torch.Tensor, target_logits_NV: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the drafter against the target's whole distribution at temperature 1, in nats, summed."""
    target_probs_NV = target_logits_NV.float().softmax(-1)
    return -(target_probs_NV * logits_NV.float().log_softmax(-1)).sum()


def probability_l1(logits_NV: torch.Tensor, target_logits_NV: torch.Tensor) -> torch.Tensor:
    """Sum of |p - q| over the vocabulary: twice the probability that rejection sampling refuses a drafted token."""
    return (logits_NV.float().softmax(-1) - target_logits_NV.float().softmax(-1)).abs().sum()


def state_smooth_l1(hidden_ND: torch.Tensor, target_hidden_ND: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between states (transition at 1), averaged over features and summed over positions."""
    per_feature_ND = functional.smooth_l1_loss(hidden_ND.float(), target_hidden_ND.float(), reduction="none")
    return per_feature_ND.mean(-1).sum()


def ranking(logits_NV: torch.Tensor, target_logits_NV: torch.Tensor, num_ranked: int) -> torch.Tensor:
    """Listwise: how unlikely the order of the target's `num_ranked` likeliest tokens is if the drafter draws them one
    after the other without replacement (Plackett-Luce), in nats, summed."""
    order_NK = target_logits_NV.topk(min(num_ranked, target_logits_NV.shape[-1]), dim=-1).indices
    drafted_NK = logits_NV.float().gather(-1, order_NK)
    not_yet_drawn_NK = drafted_NK.flip(-1).logcumsumexp(-1).flip(-1)
    return (not_yet_drawn_NK - drafted_NK).sum()


def combined(
    hidden_ND: torch.Tensor,
    target_hidden_ND: torch.Tensor,
    logits_NV: torch.Tensor,
    target_logits_NV: torch.Tensor,
    weights: LossConfig,
) -> torch.Tensor:
    """Weighted sum of the terms; one of weight 0 is not computed."""
    total = logits_NV.new_zeros(())
    if weights.soft_cross_entropy:
        total = total + weights.soft_cross_entropy * soft_cross_entropy(logits_NV, target_logits_NV)
    if weights.state_smooth_l1:
        total = total + weights.state_smooth_l1 * state_smooth_l1(hidden_ND, target_hidden_ND)
    if weights.ranking:
        total = total + weights.ranking * ranking(logits_NV, target_logits_NV, weights.ranked_tokens)
    if weights.probability_l1:
        total = total + weights.probability_l1 * probability_l1(logits_NV, target_logits_NV)
    return total
