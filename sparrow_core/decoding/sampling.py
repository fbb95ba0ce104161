"""Sampling: from logits to a token. Pure: the same logits, settings and position always give the same token.

Sampling uses the Gumbel-max trick: noise keyed by (seed, position) turns the choice into an argmax, which drafting and
verification can both evaluate.

Shape letters: R rows of a pass, V vocabulary.
"""

import torch

from sparrow_core.decoding.noise import Stream, gumbel
from sparrow_core.types import Sampling


def filtered_logits(logits_RV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Float64 logits after temperature, top-k, then top-p; excluded tokens are -inf. Needs temperature > 0.

    Top-p keeps the smallest set of most probable tokens whose probabilities sum to at least `top_p`.
    """
    scaled_RV = logits_RV.double() / sampling.temperature
    if 0 < sampling.top_k < scaled_RV.shape[-1]:
        kth_R1 = scaled_RV.topk(sampling.top_k, dim=-1).values[..., -1:]
        scaled_RV = scaled_RV.masked_fill(scaled_RV < kth_R1, float("-inf"))
    if sampling.top_p < 1.0:
        sorted_RV, order_RV = scaled_RV.sort(dim=-1, descending=True, stable=True)
        probability_RV = sorted_RV.softmax(dim=-1)
        excluded_RV = probability_RV.cumsum(dim=-1) - probability_RV >= sampling.top_p
        scaled_RV = scaled_RV.masked_fill(excluded_RV.scatter(-1, order_RV, excluded_RV), float("-inf"))
    return scaled_RV


def probabilities(logits_RV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The distribution that `sampling` draws from: float64 [R, V]. Needs temperature > 0."""
    return filtered_logits(logits_RV, sampling).softmax(dim=-1)


def noisy_scores(logits_RV: torch.Tensor, sampling: Sampling, positions_R: torch.Tensor) -> torch.Tensor:
    """Scores [R, V] whose argmax is the chosen token: the logits if greedy, else filtered logits plus Gumbel noise.

    `positions_R` counts generated tokens from 0; rows at the same position share their noise.
    """
    if sampling.temperature == 0:
        return logits_RV
    filtered_RV = filtered_logits(logits_RV, sampling)
    vocabulary_V = torch.arange(logits_RV.shape[-1], device=logits_RV.device)
    return filtered_RV + gumbel(sampling.seed, Stream.TOKEN, positions_R[:, None], vocabulary_V)


def choose(logits_RV: torch.Tensor, sampling: Sampling, positions_R: torch.Tensor) -> torch.Tensor:
    """The token that each row chooses: int64 [R]."""
    return noisy_scores(logits_RV, sampling, positions_R).argmax(dim=-1)
