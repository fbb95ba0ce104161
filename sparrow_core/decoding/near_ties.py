"""For machines whose passes are not row-invariant: a choice that rounding could have turned is made again, alone.

Where a row's logits depend on the rows beside it by up to `noise`, a choice is in doubt if the two best scores are
closer than ten times that. The rows up to the first such choice are committed, and the row that makes it is passed once
more on its own, as the autoregressive loop would. With row-invariant passes the noise is zero and nothing is in doubt.
"""

from dataclasses import replace

import torch

from sparrow_core.decoding.sampling import noisy_scores
from sparrow_core.types import Sampling

SAFETY = 10.0


def first_in_doubt(logits_LV: torch.Tensor, sampling: Sampling, first_position: int, noise: float) -> int | None:
    """Index of the first row of an accepted path whose choice is in doubt; None if none is.

    `logits_LV` are those of the path's rows, whose successors stand at positions `first_position` and on. A choice by
    the rejection rule is random anyway and never in doubt.
    """
    if noise == 0 or (sampling.temperature > 0 and sampling.rule == "rejection"):
        return None
    positions_L = torch.arange(first_position, first_position + len(logits_LV), device=logits_LV.device)
    scores_LV = noisy_scores(logits_LV, sampling, positions_L)
    best_L2 = scores_LV.topk(2, dim=-1).values
    margin = SAFETY * noise / (sampling.temperature or 1.0)
    in_doubt_L = best_L2[:, 0] - best_L2[:, 1] < margin
    if sampling.temperature > 0:
        in_doubt_L |= _filters_in_doubt(logits_LV, sampling, positions_L, scores_LV, margin)
    doubtful = in_doubt_L.nonzero()[:, 0].tolist()
    return doubtful[0] if doubtful else None


def _filters_in_doubt(
    logits_LV: torch.Tensor,
    sampling: Sampling,
    positions_L: torch.Tensor,
    scores_LV: torch.Tensor,
    margin: float,
) -> torch.Tensor:
    """Where top-k or top-p, cutting a little elsewhere, could change the choice: bool [L].

    Either one of the first tokens that are cut off would win, or the winner is among the last that are not.
    """
    open_LV = noisy_scores(logits_LV, replace(sampling, top_k=0, top_p=1.0), positions_L)
    is_cut_LV = scores_LV.isinf()
    best_L, winner_L = scores_LV.max(dim=-1)
    scaled_LV = logits_LV.double() / sampling.temperature
    first_cut_L1 = scaled_LV.masked_fill(~is_cut_LV, float("-inf")).max(dim=-1, keepdim=True).values
    just_cut_LV = is_cut_LV & (scaled_LV > first_cut_L1 - margin)
    cut_would_win_L = open_LV.masked_fill(~just_cut_LV, float("-inf")).max(dim=-1).values > best_L - margin
    least_kept_L = scaled_LV.masked_fill(is_cut_LV, float("inf")).min(dim=-1).values
    winners_L = scaled_LV.gather(-1, winner_L[:, None])[:, 0]
    return cut_would_win_L | (is_cut_LV.any(dim=-1) & (winners_L - least_kept_L < margin))
