"""Frame sampling: which instants of a span of video a target sees, and at what size, within a visual-token budget.

Pure arithmetic. Knows nothing of files or decoders; `decode.py` turns a plan into frames.
"""

from dataclasses import dataclass

from sparrow_core.config import FrameSamplingConfig
from sparrow_core.errors import ConfigError, MediaError
from sparrow_core.media.frame_spec import FrameSpec


@dataclass(frozen=True)
class SamplingPlan:
    """The frames to decode: rising instants in seconds from the start of the video, and one size in px for all.

    `sampled_fps` is the rate of these instants (their number over the span's seconds), not the rate that was asked for;
    position ids are built from it. `visual_tokens` is the number of the target's visual tokens for these frames.
    """

    times_s: tuple[float, ...]
    height: int
    width: int
    sampled_fps: float
    visual_tokens: int


def plan_frames(
    start_s: float,
    end_s: float,
    height: int,
    width: int,
    sampling: FrameSamplingConfig,
    spec: FrameSpec,
    source_fps: float | None = None,
) -> SamplingPlan:
    """Choose the frames of the span [start_s, end_s) of a video of `height` x `width` px (upright).

    The span is cut into equal intervals, and the frame at the middle of each is chosen. So a single frame shows the
    middle of the span rather than its first picture, no instant falls on a cut at the edge of the span, and none falls
    on a frame boundary when the rate divides that of the video. The number of intervals follows `sampling` (rate or
    count), is a multiple of the temporal patch size, and is at most the number of frames that the span holds at
    `source_fps`, if that is known. If they exceed the budget, frames first shrink down to `min_frame_px`, then become
    fewer.

    Raises MediaError (`empty_span`) for a span of no length, ConfigError if the budget cannot hold one temporal patch
    of the smallest frames.
    """
    span_s = end_s - start_s
    if not span_s > 0 or start_s < 0:
        raise MediaError(
            f"span {start_s:g}..{end_s:g} s: it must start at 0 s or later and end after its start", "empty_span"
        )
    num_patches = _num_temporal_patches(span_s, sampling, spec, source_fps)
    budget = sampling.max_visual_tokens - spec.tokens_per_video
    largest_frame_px = min(int(budget // num_patches * spec.token_px**2), sampling.max_frame_px)
    size = spec.fit_size(height, width, sampling.min_frame_px, max(largest_frame_px, sampling.min_frame_px))

    tokens_per_patch = spec.tokens_per_step(*size)
    num_patches = min(num_patches, budget // tokens_per_patch)
    if num_patches == 0:
        raise ConfigError(
            f"max_visual_tokens={sampling.max_visual_tokens} cannot hold one temporal patch of {size[0]}x{size[1]} px, "
            f"which takes {tokens_per_patch} tokens; raise it, or lower min_frame_px={sampling.min_frame_px}"
        )
    num_frames = num_patches * spec.temporal_patch_size
    times_s = tuple(start_s + span_s * (i + 0.5) / num_frames for i in range(num_frames))
    return SamplingPlan(times_s, *size, num_frames / span_s, num_patches * tokens_per_patch + spec.tokens_per_video)


def _num_temporal_patches(
    span_s: float, sampling: FrameSamplingConfig, spec: FrameSpec, source_fps: float | None
) -> int:
    """Temporal patches that the rate or count asks for, regardless of the token budget; at least one."""
    wanted = sampling.count if sampling.count is not None else span_s * sampling.fps
    most = min(sampling.max_frames, span_s * source_fps) if source_fps else sampling.max_frames
    nearest = round(wanted / spec.temporal_patch_size)
    return max(1, min(nearest, int(most / spec.temporal_patch_size)))
