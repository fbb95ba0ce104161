"""From logits to a token. Pure: the same logits, settings and position give the same token, wherever it is asked.

Sampling is Gumbel-max: noise keyed by (seed, position) turns the choice into an argmax, which drafting and verification
can both evaluate. Shape letters: N rows, V vocabulary.
"""

import torch

from sparrow_core.decoding.noise import Stream, gumbel
from sparrow_core.types import Sampling


def filtered_logits(logits_NV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Float64 logits after temperature, top-k, then top-p; excluded tokens are -inf. Needs temperature > 0.

    Top-p keeps the smallest set of most probable tokens whose probabilities sum to at least `top_p`.
    """
    scaled_NV = logits_NV.double() / sampling.temperature
    if 0 < sampling.top_k < scaled_NV.shape[-1]:
        kth_N1 = scaled_NV.topk(sampling.top_k, dim=-1).values[..., -1:]
        scaled_NV = scaled_NV.masked_fill(scaled_NV < kth_N1, float("-inf"))
    if sampling.top_p < 1.0:
        sorted_NV, order_NV = scaled_NV.sort(dim=-1, descending=True, stable=True)
        probability_NV = sorted_NV.softmax(dim=-1)
        excluded_NV = probability_NV.cumsum(dim=-1) - probability_NV >= sampling.top_p
        scaled_NV = scaled_NV.masked_fill(excluded_NV.scatter(-1, order_NV, excluded_NV), float("-inf"))
    return scaled_NV


def probabilities(logits_NV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The distribution that `sampling` draws from: float64 [N, V]. Needs temperature > 0."""
    return filtered_logits(logits_NV, sampling).softmax(dim=-1)


def noisy_scores(logits_NV: torch.Tensor, sampling: Sampling, positions_N: torch.Tensor) -> torch.Tensor:
    """Scores whose argmax is the chosen token [N, V]: plain logits when greedy, Gumbel-perturbed ones otherwise.

    `positions_N` counts generated tokens from 0; rows at the same position share their noise.
    """
    if sampling.temperature == 0:
        return logits_NV
    filtered_NV = filtered_logits(logits_NV, sampling)
    vocabulary_V = torch.arange(logits_NV.shape[-1], device=logits_NV.device)
    return filtered_NV + gumbel(sampling.seed, Stream.TOKEN, positions_N[:, None], vocabulary_V)


def choose(logits_NV: torch.Tensor, sampling: Sampling, positions_N: torch.Tensor) -> torch.Tensor:
    """The target's own token at each position: int64 [N]."""
    return noisy_scores(logits_NV, sampling, positions_N).argmax(dim=-1)
