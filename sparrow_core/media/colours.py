"""Colour normalisation, which every vision tower wants with figures of its own."""

from collections.abc import Sequence

import torch


def normalise(pixels_NCx: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Float pixels of 0..255, changed in place: minus `mean`, by `std`, per colour (axis 1) on the 0..1 scale."""
    by_colour = (-1, *[1] * (pixels_NCx.ndim - 2))
    mean_Cx, std_Cx = (torch.tensor(values).mul(255).view(by_colour) for values in (mean, std))
    return pixels_NCx.sub_(mean_Cx).div_(std_Cx)
