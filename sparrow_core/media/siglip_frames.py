"""Frames to what a SigLIP tower eats: squares of one size, normalised, whatever the shape of the video.

Shape letters: T frames, S side_px.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from sparrow_core.errors import ConfigError, MediaError
from sparrow_core.media.colours import normalised


@dataclass(frozen=True)
class SiglipSpec:
    """Side of the squares, of the tower's patches in them, and colour normalisation; defaults of LLaVA-OneVision.

    The patches of a frame are pooled two by two, and a token that stands for a new line ends each video.
    """

    side_px: int = 384
    patch_size: int = 14
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    temporal_patch_size = 1
    tokens_per_video = 1

    @property
    def tokens_per_side(self) -> int:
        """Visual tokens along one side of a frame."""
        return math.ceil(self.side_px // self.patch_size / 2)

    @property
    def token_px(self) -> float:
        return self.side_px / self.tokens_per_side

    def fit_size(self, height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        """The one size there is; the pixels asked for have no say. Raises MediaError for an empty frame."""
        if height < 1 or width < 1:
            raise MediaError(f"frames of {height}x{width} px have no pixels", reason="unsupported_size")
        return self.side_px, self.side_px

    def tokens_per_step(self, height: int, width: int) -> int:
        return self.tokens_per_side**2


def siglip_frames(frames: np.ndarray, spec: SiglipSpec) -> torch.Tensor:
    """uint8 frames [T, S, S, 3] -> float32 [T, 3, S, S]. Raises ConfigError for frames of another shape or type."""
    expected = (spec.side_px, spec.side_px, 3)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[0] == 0 or frames.shape[1:] != expected:
        raise ConfigError(f"frames must be uint8 [T >= 1, {spec.side_px}, {spec.side_px}, 3], got "
                          f"{frames.dtype} {list(frames.shape)}")  # fmt: skip
    pixels = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
    return torch.from_numpy(normalised(pixels, spec.mean, spec.std))
