"""Near-ties on machines whose passes are not batch-invariant: a choice that rounding could change is made again, alone.

If a row's logits can differ by up to `batch_deviation` because of the rows beside it, a choice is in doubt when its two
best scores are closer than ten times that. The rows before the first such choice are committed, and the row that makes
it is passed again in a pass of its own, as in the autoregressive loop. Where passes are batch-invariant, the deviation
is zero and no choice is in doubt.

Shape letters: R rows of a pass (here those of an accepted path), V vocabulary.
"""

from dataclasses import replace

import torch

from sparrow_core.decoding.sampling import noisy_scores
from sparrow_core.types import Sampling

SAFETY = 10.0


def first_in_doubt(
    logits_RV: torch.Tensor, sampling: Sampling, first_position: int, batch_deviation: float
) -> int | None:
    """Index of the first row of an accepted path whose choice is in doubt; None if none is.

    `logits_RV` are the logits of the path's rows, which choose the tokens at positions `first_position` and following.
    A choice by the rejection rule is random anyway and never in doubt.
    """
    if batch_deviation == 0 or (sampling.temperature > 0 and sampling.rule == "rejection"):
        return None
    positions_R = torch.arange(first_position, first_position + len(logits_RV), device=logits_RV.device)
    scores_RV = noisy_scores(logits_RV, sampling, positions_R)
    best_R2 = scores_RV.topk(2, dim=-1).values
    margin = SAFETY * batch_deviation / (sampling.temperature or 1.0)
    in_doubt_R = best_R2[:, 0] - best_R2[:, 1] < margin
    if sampling.temperature > 0:
        in_doubt_R |= _filters_in_doubt(logits_RV, sampling, positions_R, scores_RV, margin)
    doubtful = in_doubt_R.nonzero()[:, 0].tolist()
    return doubtful[0] if doubtful else None


def _filters_in_doubt(
    logits_RV: torch.Tensor,
    sampling: Sampling,
    positions_R: torch.Tensor,
    scores_RV: torch.Tensor,
    margin: float,
) -> torch.Tensor:
    """Where the choice would change if top-k or top-p cut off slightly more or fewer tokens: bool [R].

    Either one of the likeliest excluded tokens would win, or the winner is among the least likely kept ones.
    """
    open_RV = noisy_scores(logits_RV, replace(sampling, top_k=0, top_p=1.0), positions_R)
    is_cut_RV = scores_RV.isinf()
    best_R, winner_R = scores_RV.max(dim=-1)
    scaled_RV = logits_RV.double() / sampling.temperature
    first_cut_R1 = scaled_RV.masked_fill(~is_cut_RV, float("-inf")).max(dim=-1, keepdim=True).values
    just_cut_RV = is_cut_RV & (scaled_RV > first_cut_R1 - margin)
    cut_would_win_R = open_RV.masked_fill(~just_cut_RV, float("-inf")).max(dim=-1).values > best_R - margin
    least_kept_R = scaled_RV.masked_fill(is_cut_RV, float("inf")).min(dim=-1).values
    winners_R = scaled_RV.gather(-1, winner_R[:, None])[:, 0]
    return cut_would_win_R | (is_cut_RV.any(dim=-1) & (winners_R - least_kept_R < margin))
