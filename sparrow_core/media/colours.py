"""Colour normalisation. Every vision tower has its own mean and standard deviation."""

from collections.abc import Sequence

import numpy as np


def normalised(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 pixels with colours on axis 1 -> float32 of the same shape, (pixels / 255 - mean) / std for each colour."""
    per_colour = (-1, *[1] * (pixels.ndim - 2))
    mean_255, std_255 = (np.asarray(values, np.float32).reshape(per_colour) * np.float32(255) for values in (mean, std))
    result = np.subtract(pixels, mean_255, dtype=np.float32)
    result /= std_255
    return result
