"""Frames for a SigLIP vision tower: squares of one size, normalised, whatever the shape of the video.

Shape letters: pixels T frames, H height, W width, C channels.
"""

import math
from dataclasses import dataclass

import numpy as np

from sparrow_core.errors import ConfigError, MediaError
from sparrow_core.media.colours import normalised


@dataclass(frozen=True)
class SiglipSpec:
    """Side of a square frame and of its patches, in px, and colour normalisation; the defaults are LLaVA-OneVision's.

    The patches of a frame are pooled two by two, and a newline token ends each video.
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
        """The tower's only size, whatever `min_pixels` and `max_pixels` are. Raises MediaError for an empty frame."""
        if height < 1 or width < 1:
            raise MediaError(f"frames of {height}x{width} px have no pixels", reason="unsupported_size")
        return self.side_px, self.side_px

    def tokens_per_step(self, height: int, width: int) -> int:
        return self.tokens_per_side**2


def siglip_frames(pixels_THWC: np.ndarray, spec: SiglipSpec) -> np.ndarray:
    """uint8 RGB frames of `side_px` x `side_px` -> normalised float32 [T, C, H, W].

    Raises ConfigError for frames of another shape or type.
    """
    expected = (spec.side_px, spec.side_px, 3)
    if pixels_THWC.dtype != np.uint8 or pixels_THWC.shape[1:] != expected or len(pixels_THWC) == 0:
        raise ConfigError(f"frames must be uint8 [T >= 1, {spec.side_px}, {spec.side_px}, 3], got "
                          f"{pixels_THWC.dtype} {list(pixels_THWC.shape)}")  # fmt: skip
    pixels_TCHW = np.ascontiguousarray(pixels_THWC.transpose(0, 3, 1, 2))
    return normalised(pixels_TCHW, spec.mean, spec.std)
