"""Patches for a Qwen2-VL style vision tower: frame sizes, patch order, normalisation.

Owns the patch layout and nothing else. It does not know where frames come from (`decode.py`), which instants were
chosen (`timeline.py`) or how a model uses the patches.

Shape letters: pixels T frames, H height, W width, C channels. Axes of patches are written out.
"""

import math
from dataclasses import dataclass

import numpy as np

from sparrow_core.errors import ConfigError, MediaError
from sparrow_core.media.colours import normalised

Grid = tuple[int, int, int]

MAX_ASPECT_RATIO = 200


@dataclass(frozen=True)
class PatchSpec:
    """Patch geometry and colour normalisation of a vision tower; the defaults are those of Qwen2-VL and Qwen2.5-VL.

    `mean` and `std` are per colour on the 0..1 scale. One visual token is `merge_size` x `merge_size` patches.
    """

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @property
    def token_px(self) -> int:
        """Side, in px, of the square that one visual token stands for. Frame sizes are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def tokens_per_video(self) -> int:
        """0: a video has no visual tokens but those of its frames."""
        return 0

    def fit_size(self, height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        """The frame size nearest to `height` x `width` px that has `min_pixels` to `max_pixels` and suits the tower.

        Returns (height, width), both multiples of `token_px`, with the aspect ratio kept as closely as these steps
        allow: the size that `smart_resize` of transformers' Qwen2-VL processors gives. Raises MediaError for frames
        that are empty or more than 200 times as long as wide.
        """
        if height < 1 or width < 1 or max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise MediaError(
                f"frames of {height}x{width} px: both sides must be at least 1 px, and the longer one at most "
                f"{MAX_ASPECT_RATIO} times the shorter one; crop or pad the video",
                reason="unsupported_size",
            )
        step = self.token_px
        fitted_height, fitted_width = round(height / step) * step, round(width / step) * step
        if fitted_height * fitted_width > max_pixels:
            shrink = math.sqrt(height * width / max_pixels)
            fitted_height = max(step, math.floor(height / shrink / step) * step)
            fitted_width = max(step, math.floor(width / shrink / step) * step)
        elif fitted_height * fitted_width < min_pixels:
            grow = math.sqrt(min_pixels / (height * width))
            fitted_height = math.ceil(height * grow / step) * step
            fitted_width = math.ceil(width * grow / step) * step
        return fitted_height, fitted_width

    def tokens_per_step(self, height: int, width: int) -> int:
        """Visual tokens of one temporal patch of `height` x `width` px, after the tower has merged its patches.

        Raises ConfigError if a side is not a multiple of `token_px`.
        """
        _check_size(height, width, self)
        return (height // self.token_px) * (width // self.token_px)


def patchify(pixels_THWC: np.ndarray, spec: PatchSpec) -> tuple[np.ndarray, Grid]:
    """Cut uint8 RGB frames into normalised patches, in the order of transformers' Qwen2-VL processors.

    Returns float32 patches [patches, 3 * temporal_patch_size * patch_size**2] and the grid of patches: steps in time,
    rows, columns, whose product is their number. The patches that merge into one visual token are consecutive. If T is
    not a multiple of `temporal_patch_size`, the last frame is repeated, so that an image (T = 1) fills one temporal
    patch. Raises ConfigError for frames of another shape or type, or sides that are no multiples of `token_px`.
    """
    if pixels_THWC.dtype != np.uint8 or pixels_THWC.ndim != 4 or len(pixels_THWC) == 0 or pixels_THWC.shape[3] != 3:
        found = f"{pixels_THWC.dtype} {list(pixels_THWC.shape)}"
        raise ConfigError(f"frames must be uint8 [T >= 1, H, W, 3], got {found}")
    num_frames, height, width, colours = pixels_THWC.shape
    _check_size(height, width, spec)
    side, merge, temporal = spec.patch_size, spec.merge_size, spec.temporal_patch_size
    if padding := -num_frames % temporal:
        pixels_THWC = np.concatenate([pixels_THWC, np.repeat(pixels_THWC[-1:], padding, axis=0)])
    grid = steps, rows, columns = len(pixels_THWC) // temporal, height // side, width // side

    # Reordered while still uint8, so that the only strided copy moves a quarter of the bytes of float32.
    split = (steps, temporal, rows // merge, merge, side, columns // merge, merge, side, colours)
    by_patch = np.ascontiguousarray(pixels_THWC).reshape(split).transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    patches = by_patch.reshape(math.prod(grid), colours, temporal * side * side)
    return normalised(patches, spec.mean, spec.std).reshape(len(patches), -1), grid


def _check_size(height: int, width: int, spec: PatchSpec) -> None:
    step = spec.token_px
    if height < step or width < step or height % step or width % step:
        raise ConfigError(
            f"frame size {height}x{width} px is not a multiple of {step} px (patch {spec.patch_size} x merge "
            f"{spec.merge_size}); choose it with fit_size()"
        )
