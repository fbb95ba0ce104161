"""Frames of real video files. These tests run if SPARROW_REAL_VIDEOS names a folder."""

import os
from pathlib import Path

import av
import pytest

from sparrow_core.config import DecodeConfig, FrameSamplingConfig
from sparrow_core.media import decord_reader, pyav_reader
from sparrow_core.media.decode import FrameDecoder
from sparrow_core.media.patches import PatchSpec
from sparrow_core.media.timeline import plan_frames

FOLDER = os.environ.get("SPARROW_REAL_VIDEOS")
SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov"}
FILES = sorted(path for path in Path(FOLDER).iterdir() if path.suffix in SUFFIXES) if FOLDER else []

pytestmark = pytest.mark.skipif(not FOLDER, reason="SPARROW_REAL_VIDEOS names no folder")


def all_pictures(path: Path) -> list[tuple[float, av.VideoFrame]]:
    """Every frame of a file, decoded front to back, with its time from the first."""
    with av.open(str(path)) as container:
        frames = [(frame.time or 0.0, frame) for frame in container.decode(container.streams.best("video"))]
    return [(time_s - frames[0][0], frame) for time_s, frame in frames]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_planned_frames_are_those_of_a_full_decode(path: Path) -> None:
    pictures = all_pictures(path)
    with FrameDecoder(DecodeConfig()) as decoder:
        info = decoder.probe(path)
        assert info.duration_s == pytest.approx(pictures[-1][0] + 1 / info.fps, abs=1.5 / info.fps)
        plan = plan_frames(0, info.duration_s, info.height, info.width, FrameSamplingConfig(), PatchSpec(), info.fps)
        frames = decoder.frames(path, plan)
    print(f"{path.name}: {info}, frame times {[round(time_s, 3) for time_s in frames.times_s]}")
    for time_s, shown_s, pixels in zip(plan.times_s, frames.times_s, frames.pixels_THWC, strict=True):
        expected_s, frame = [picture for picture in pictures if picture[0] <= time_s + 1e-3][-1]
        assert shown_s == pytest.approx(expected_s, abs=1e-3)
        reference = pyav_reader.resize(pyav_reader.to_rgb(frame), plan.height, plan.width)
        assert abs(pixels.astype(int) - reference).max() == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_decord_agrees_where_it_is_used(path: Path) -> None:
    starts_s = decord_reader.exact_start_times(str(path), 0.0)
    if starts_s is None:
        pytest.skip("PyAV alone reads this file")
    times_s = starts_s[:: max(1, len(starts_s) // 8)].tolist()
    by_decord = decord_reader.read_frames(str(path), starts_s, times_s, 112, 112, 1)
    by_pyav = pyav_reader.read_frames(str(path), times_s, 112, 112, 1, 0.0)
    assert by_decord is not None
    assert (by_decord[0] == by_pyav[0]).all()
    assert by_decord[1] == pytest.approx(by_pyav[1], abs=1e-6)
