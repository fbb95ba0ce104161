"""Frames to what a Qwen2-VL style vision tower eats: size arithmetic, patch order, normalisation.

Owns the patch layout and nothing else. It does not know where frames come from (`decode.py`), which instants were
chosen (`timeline.py`) or how a model consumes the patches.

Shape letters: T frames, H height_px, W width_px, C=3 colours, P patch size, M merge size, K temporal patch size,
N patches.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

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
        """Side of the square of pixels behind one visual token; frame sizes are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def tokens_per_video(self) -> int:
        """None but those of its frames."""
        return 0

    def fit_size(self, height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        """Frame size nearest to `height` x `width` px with the tower's divisibility, within a range of pixels a frame.

        Returns (height, width), both multiples of `token_px`, aspect ratio kept as closely as these steps allow: the
        same size as `smart_resize` of transformers' Qwen2-VL processors. Raises MediaError for an empty or extremely
        long frame.
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
        """Visual tokens of one temporal patch of `height` x `width` px after the tower merged its patches."""
        _check_size(height, width, self)
        return (height // self.token_px) * (width // self.token_px)


def patchify(frames: np.ndarray, spec: PatchSpec) -> tuple[torch.Tensor, Grid]:
    """Cut uint8 frames [T, H, W, 3] into normalised patches, in the order of transformers' Qwen2-VL processors.

    Returns float32 patches [N, 3 * K * P * P] and the grid (T / K, H / P, W / P), N its product. Patches that merge
    into one visual token are neighbours in N. Where T is not a multiple of K the last frame is repeated, which makes
    an image (T = 1) fill one temporal patch. Raises ConfigError for frames of another shape, type or divisibility.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[0] == 0 or frames.shape[3] != 3:
        raise ConfigError(f"frames must be uint8 [T >= 1, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    T, H, W, C = frames.shape
    _check_size(H, W, spec)
    P, M, K = spec.patch_size, spec.merge_size, spec.temporal_patch_size
    if padding := -T % K:
        frames = np.concatenate([frames, np.repeat(frames[-1:], padding, axis=0)])
    grid = len(frames) // K, H // P, W // P

    # Reordered while still uint8: the only strided pass then moves a quarter of the bytes.
    cells = np.ascontiguousarray(frames).reshape(grid[0], K, H // P // M, M, P, W // P // M, M, P, C)
    patches = cells.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(math.prod(grid), C, K * P * P)
    return torch.from_numpy(normalised(patches, spec.mean, spec.std)).flatten(1), grid


def _check_size(height: int, width: int, spec: PatchSpec) -> None:
    step = spec.token_px
    if height < step or width < step or height % step or width % step:
        raise ConfigError(
            f"frame size {height}x{width} px is not a multiple of {step} px (patch {spec.patch_size} x merge "
            f"{spec.merge_size}); choose it with fit_size()"
        )
