"""Patches against those of the library's own processors."""

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from sparrow_core.errors import ConfigError, MediaError
from sparrow_core.media.patches import PatchSpec, patchify

SPEC = PatchSpec()
SMALL = PatchSpec(patch_size=4, temporal_patch_size=3, merge_size=3)
# The PIL processor scales by 1/255 and then normalises; we do both in one step. float32 rounding of values near 1.
ROUNDING = 1e-6


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("spec", "height", "width"), [(SPEC, 84, 140), (SPEC, 28, 28), (SMALL, 24, 60)])
def test_an_image_agrees_with_the_library(spec: PatchSpec, height: int, width: int) -> None:
    sizes = {name: getattr(spec, name) for name in ("patch_size", "temporal_patch_size", "merge_size")}
    image = noise(height, width, 3)
    expected = Qwen2VLImageProcessorPil(do_resize=False, **sizes)(images=[image], return_tensors="pt")
    patches, grid = patchify(image[None], spec)
    assert list(grid) == expected["image_grid_thw"][0].tolist()
    torch.testing.assert_close(torch.from_numpy(patches), expected["pixel_values"], atol=ROUNDING, rtol=0)
    assert len(patches) == spec.merge_size**2 * spec.tokens_per_step(height, width)


@pytest.mark.parametrize("num_frames", [4, 5])
def test_a_video_agrees_with_the_library(num_frames: int) -> None:
    pytest.importorskip("torchvision")
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    video = noise(num_frames, 56, 84, 3)
    processor = Qwen2VLVideoProcessor(do_resize=False, do_sample_frames=False)
    expected = processor(videos=[torch.from_numpy(video).permute(0, 3, 1, 2)], return_tensors="pt")
    patches, grid = patchify(video, SPEC)
    assert list(grid) == expected["video_grid_thw"][0].tolist()
    torch.testing.assert_close(torch.from_numpy(patches), expected["pixel_values_videos"], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("spec", [SPEC, SMALL])
def test_frames_of_a_temporal_patch_stand_side_by_side(spec: PatchSpec) -> None:
    """A frame's patches as an image, tested above, repeat it in every temporal slice: each slice must equal one."""
    height, width, num_grids = 2 * spec.token_px, 3 * spec.token_px, 2
    video = noise(num_grids * spec.temporal_patch_size, height, width, 3)
    patches, grid = patchify(video, spec)
    assert grid == (num_grids, height // spec.patch_size, width // spec.patch_size)
    frame_of = patches.reshape(num_grids, grid[1] * grid[2], 3, spec.temporal_patch_size, -1)
    for t, frame in enumerate(video):
        grid_t, k = divmod(t, spec.temporal_patch_size)
        alone, _ = patchify(frame[None], spec)
        alone = alone.reshape(-1, 3, spec.temporal_patch_size, spec.patch_size**2)
        np.testing.assert_allclose(frame_of[grid_t, :, :, k], alone[:, :, 0], rtol=1e-6, atol=1e-6)


def test_an_odd_last_frame_is_repeated() -> None:
    video = noise(3, 28, 56, 3)
    np.testing.assert_array_equal(patchify(video, SPEC)[0], patchify(video[[0, 1, 2, 2]], SPEC)[0])


def test_a_view_of_a_longer_video_is_enough() -> None:
    video = noise(8, 28, 56, 3)
    view = video[::2, :, ::-1]
    np.testing.assert_array_equal(patchify(view, SPEC)[0], patchify(view.copy(), SPEC)[0])


@pytest.mark.parametrize("limits", [(56 * 56, 1280 * 28 * 28), (112 * 112, 448 * 448), (100, 800)])
def test_sizes_agree_with_the_library(limits: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    sides = [(1, 1), (14, 42), (28, 28), (1080, 1920), (3, 500), *rng.integers(5, 900, (200, 2)).tolist()]
    for height, width in sides:
        assert SPEC.fit_size(height, width, *limits) == smart_resize(height, width, SPEC.token_px, *limits)


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match="30x56 px is not a multiple of 28"):
        patchify(noise(2, 30, 56, 3), SPEC)
    with pytest.raises(ConfigError, match="float64"):
        patchify(noise(2, 28, 28, 3) / 255, SPEC)
    with pytest.raises(ConfigError, match=r"\[0, 28, 28, 3\]"):
        patchify(noise(0, 28, 28, 3), SPEC)
    with pytest.raises(MediaError, match="at most 200 times"):
        SPEC.fit_size(2, 402, 100, 1000)
