"""Sampling instants, the rate they imply, and the token budget."""

from dataclasses import replace

import numpy as np
import pytest

from sparrow_core.config import FrameSamplingConfig
from sparrow_core.errors import ConfigError, MediaError
from sparrow_core.media.patches import PatchSpec
from sparrow_core.media.timeline import plan_frames

SPEC = PatchSpec()
SAMPLING = FrameSamplingConfig(fps=2.0, max_frames=768, max_visual_tokens=24_576)


def test_instants_are_the_middles_of_equal_intervals() -> None:
    plan = plan_frames(10.0, 12.0, 224, 224, SAMPLING, SPEC)
    assert plan.times_s == pytest.approx((10.25, 10.75, 11.25, 11.75))
    assert plan.sampled_fps == 2.0
    assert (plan.height, plan.width) == (224, 224)
    assert plan.visual_tokens == 2 * 8 * 8


def test_the_rate_is_that_of_the_instants_not_the_one_asked_for() -> None:
    """1.3 s at 2 per second are 2.6 frames; whole temporal patches make it 2, which is 1.54 per second."""
    plan = plan_frames(0.0, 1.3, 224, 224, SAMPLING, SPEC)
    assert len(plan.times_s) == 2
    assert plan.sampled_fps == pytest.approx(2 / 1.3)
    assert plan.sampled_fps == pytest.approx(1 / (plan.times_s[1] - plan.times_s[0]))


def test_count_overrides_the_rate() -> None:
    plan = plan_frames(0.0, 100.0, 224, 224, replace(SAMPLING, count=8), SPEC)
    assert len(plan.times_s) == 8
    assert plan.sampled_fps == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("span_s", "sampling", "source_fps", "expected"),
    [
        (0.1, SAMPLING, None, 2),  # at least one temporal patch
        (1000.0, replace(SAMPLING, max_frames=9), None, 8),  # whole patches within the limit
        (5.0, replace(SAMPLING, fps=30.0), 4.0, 20),  # no more than the video has
        (0.1, replace(SAMPLING, count=64), 4.0, 2),
    ],
)
def test_number_of_frames(
    span_s: float, sampling: FrameSamplingConfig, source_fps: float | None, expected: int
) -> None:
    assert len(plan_frames(0.0, span_s, 112, 112, sampling, SPEC, source_fps).times_s) == expected


def test_over_budget_frames_shrink_before_they_become_fewer() -> None:
    many = replace(SAMPLING, count=100, min_frame_px=112 * 112)
    free = plan_frames(0.0, 60.0, 448, 448, many, SPEC)
    assert (free.height, free.width, len(free.times_s), free.visual_tokens) == (448, 448, 100, 50 * 256)
    smaller = plan_frames(0.0, 60.0, 448, 448, replace(many, max_visual_tokens=5000), SPEC)
    assert (smaller.height, smaller.width, len(smaller.times_s)) == (280, 280, 100)
    fewer = plan_frames(0.0, 60.0, 448, 448, replace(many, max_visual_tokens=500), SPEC)
    assert (fewer.height, fewer.width, len(fewer.times_s)) == (112, 112, 2 * 31)
    assert fewer.sampled_fps == pytest.approx(62 / 60)


def test_the_budget_holds_for_any_video() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(side) for side in rng.integers(16, 2200, 2))
        start_s, span_s = rng.uniform(0, 1000), rng.uniform(0.02, 600)
        sampling = FrameSamplingConfig(fps=rng.uniform(0.1, 30), max_visual_tokens=int(rng.integers(300, 25_000)))
        plan = plan_frames(start_s, start_s + span_s, height, width, sampling, SPEC)
        assert 0 < plan.visual_tokens <= sampling.max_visual_tokens
        assert plan.visual_tokens == len(plan.times_s) // 2 * SPEC.tokens_per_step(plan.height, plan.width)
        assert len(plan.times_s) % SPEC.temporal_patch_size == 0
        assert start_s < plan.times_s[0] and plan.times_s[-1] < start_s + span_s
        assert np.diff(plan.times_s) == pytest.approx(1 / plan.sampled_fps)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(MediaError, match=r"5\.\.5 s") as caught:
        plan_frames(5.0, 5.0, 224, 224, SAMPLING, SPEC)
    assert caught.value.reason == "empty_span"
    with pytest.raises(MediaError, match="nan"):
        plan_frames(0.0, float("nan"), 224, 224, SAMPLING, SPEC)
    with pytest.raises(ConfigError, match="max_visual_tokens=8 cannot hold"):
        plan_frames(0.0, 5.0, 224, 224, replace(SAMPLING, max_visual_tokens=8), SPEC)
