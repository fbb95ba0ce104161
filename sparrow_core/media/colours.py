"""Colour normalisation, which every vision tower wants with figures of its own."""

from collections.abc import Sequence

import numpy as np


def normalised(pixels_NCx: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 pixels to float32: minus `mean`, by `std`, per colour (axis 1) on the 0..1 scale."""
    by_colour = (-1, *[1] * (pixels_NCx.ndim - 2))
    mean_Cx, std_Cx = (np.asarray(values, np.float32).reshape(by_colour) * np.float32(255) for values in (mean, std))
    result_NCx = np.subtract(pixels_NCx, mean_Cx, dtype=np.float32)
    result_NCx /= std_Cx
    return result_NCx
