"""The right picture at the right instant, for every codec, container and clock, from both decoders."""

import bisect
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sparrow_core.media import decord_reader, pyav_reader
from sparrow_core.media.probe import read_info
from sparrow_core.media.video_file import open_video
from tests.sparrow_core.media.videos import (
    FAST_VP9,
    HEIGHT,
    QUIET_X265,
    WIDTH,
    number_of,
    picture,
    render,
    set_rotation,
)

SIZE = (56, 84)
STEADY = [i * 40 for i in range(60)]
UNSTEADY = np.concatenate([[0], np.cumsum(np.random.default_rng(1).integers(10, 700, 59))]).tolist()
OPEN_GROUPS = {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}
CASES = {
    "h264.mp4": ("libx264", STEADY, {}),
    "h264_open.mp4": ("libx264", STEADY, {"options": OPEN_GROUPS}),
    "h264.ts": ("libx264", STEADY, {"options": OPEN_GROUPS}),
    "hevc.mp4": ("libx265", STEADY, {"options": QUIET_X265}),
    "vp9.webm": ("libvpx-vp9", STEADY, {"options": FAST_VP9}),
    "av1.mkv": ("libsvtav1", STEADY, {"options": {"preset": "10", "crf": "5"}}),
    "mpeg4.avi": ("mpeg4", STEADY, {"clock": Fraction(1, 25)}),
    "mpeg4_b_frames.avi": ("mpeg4", STEADY, {"clock": Fraction(1, 25), "options": {"bf": "2"}}),
    "h264_b_frames.avi": ("libx264", STEADY, {"clock": Fraction(1, 25)}),
    "unsteady.mp4": ("libx264", UNSTEADY, {}),
    "unsteady.mkv": ("libx264", UNSTEADY, {}),
    "unsteady.webm": ("libvpx-vp9", UNSTEADY, {"options": FAST_VP9}),
    "late_start.mp4": ("libx264", STEADY, {"shift_ms": 500}),
    "late_start.mkv": ("libx264", UNSTEADY, {"shift_ms": 500}),
    "fragments.mp4": ("libx264", STEADY, {"muxer_options": {"movflags": "frag_keyframe+empty_moov"}}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def rendered(folder: Path, name: str) -> Path:
    codec, pts_ms, settings = CASES[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    path = folder / name
    return path if path.exists() else render(path, codec, pts_ms, **settings)


def instants(pts_ms: list[int]) -> tuple[list[float], list[int]]:
    """Instants on, just before and between timestamps, and the number of the frame shown at each."""
    rng = np.random.default_rng(0)
    between = rng.uniform(0, pts_ms[-1] + 30, 15)
    # Within the readers' tolerance for rounded clocks (1 ms) either frame is right: such instants are left out.
    clear = between[np.abs(between[:, None] - np.array(pts_ms)).min(axis=1) > 2]
    times_ms = sorted([*pts_ms[::7], *(p - 5 for p in pts_ms[1::9]), *clear])
    return [t / 1000 for t in times_ms], [bisect.bisect_right(pts_ms, t) - 1 for t in times_ms]


def pyav_frames(source: str | bytes, times_s: list[float]) -> tuple[np.ndarray, list[float]]:
    return pyav_reader.read_frames(source, times_s, *SIZE, num_threads=2, max_missing_share=0.0)


def decord_frames(source: str | bytes, times_s: list[float]) -> tuple[np.ndarray, list[float]] | None:
    """As `pyav_frames`; None for files that decord does not read."""
    starts_s = decord_reader.exact_start_times(source, times_s[-1])
    return None if starts_s is None else decord_reader.read_frames(source, starts_s, times_s, *SIZE, num_threads=1)


@pytest.mark.parametrize("name", CASES)
def test_shows_the_last_frame_that_appeared_by_each_instant(folder: Path, name: str) -> None:
    path = rendered(folder, name)
    pts_ms = CASES[name][1]
    times_s, expected = instants(pts_ms)
    readers = {"pyav": pyav_frames(str(path), times_s), "decord": decord_frames(str(path), times_s)}
    for reader, result in readers.items():
        if result is None:
            continue
        pixels_THWC, shown_s = result
        assert pixels_THWC.shape == (len(times_s), *SIZE, 3) and pixels_THWC.dtype == np.uint8
        assert [number_of(pixels) for pixels in pixels_THWC] == expected, reader
        # Matroska rounds timestamps to 1 ms.
        assert shown_s == pytest.approx([pts_ms[i] / 1000 for i in expected], abs=1e-3), reader


@pytest.mark.parametrize("name", CASES)
def test_one_instant_deep_in_the_file(folder: Path, name: str) -> None:
    """Each instant is asked for alone, so that every one is reached by a seek."""
    path = rendered(folder, name)
    pts_ms = CASES[name][1]
    for number in (11, 12, 13, 37, 59):
        pixels_THWC, _ = pyav_frames(str(path), [pts_ms[number] / 1000])
        assert number_of(pixels_THWC[0]) == number


@pytest.mark.parametrize("name", CASES)
def test_facts(folder: Path, name: str) -> None:
    info = read_info(str(rendered(folder, name)))
    last_ms, previous_ms = CASES[name][1][-1], CASES[name][1][-2]
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    # The muxer guesses how long the last frame is shown: anything from 0 to the last known interval.
    assert last_ms / 1000 - 1e-3 <= info.duration_s <= (2 * last_ms - previous_ms) / 1000 + 0.041


def test_edit_list_hides_the_frames_before_its_start(tmp_path: Path) -> None:
    """The MP4 muxer turns negative timestamps into an edit list; players then start at frame 13."""
    path = render(tmp_path / "cut.mp4", "libx264", STEADY, shift_ms=-500)
    assert decord_reader.exact_start_times(str(path), 0.0) is None
    pixels_THWC, _ = pyav_frames(str(path), [0.0, 0.05, 1.01])
    assert [number_of(pixels) for pixels in pixels_THWC] == [13, 14, 38]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_of_the_display_matrix_is_applied(tmp_path: Path, turns: int) -> None:
    path = set_rotation(render(tmp_path / "turned.mp4", "libx264", STEADY, quarter_turns=turns), turns)
    info = read_info(str(path))
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    pixels_THWC, _ = pyav_frames(str(path), [0.45])
    # A well compressed picture differs by less; a picture with the wrong rotation by about 100.
    assert abs(pixels_THWC[0].mean() - picture(11).mean()) < 4
    assert number_of(pixels_THWC[0]) == 11
    by_decord = decord_frames(str(path), [0.45])
    assert by_decord is None or np.array_equal(by_decord[0], pixels_THWC)


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "unsteady.mp4", "unsteady.mkv", "late_start.mkv"])
def test_decord_and_pyav_give_the_same_pixels(folder: Path, name: str) -> None:
    pytest.importorskip("decord")
    path = rendered(folder, name)
    times_s, _ = instants(CASES[name][1])
    by_decord = decord_frames(str(path), times_s)
    assert by_decord is not None
    by_pyav = pyav_frames(str(path), times_s)
    np.testing.assert_array_equal(by_decord[0], by_pyav[0])
    assert by_decord[1] == pytest.approx(by_pyav[1], abs=1e-6)


@pytest.mark.parametrize("name", ["h264_open.mp4", "hevc.mp4", "h264.ts", "mpeg4.avi", "av1.mkv"])
def test_decord_is_not_asked_where_it_counts_wrongly(folder: Path, name: str) -> None:
    assert decord_reader.exact_start_times(str(rendered(folder, name)), 0.0) is None


def test_closed_groups_of_hevc_are_exact(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    options = {"x265-params": "log-level=none:pools=1:open-gop=0:bframes=2"}
    path = render(tmp_path / "closed.mp4", "libx265", STEADY, options=options)
    starts_s = decord_reader.exact_start_times(str(path), 0.0)
    assert starts_s is not None and starts_s == pytest.approx(np.array(STEADY) / 1000)


def test_bytes_are_read_like_a_file(folder: Path) -> None:
    path = rendered(folder, "h264.mp4")
    times_s, _ = instants(STEADY)
    np.testing.assert_array_equal(pyav_frames(path.read_bytes(), times_s)[0], pyav_frames(str(path), times_s)[0])
    assert read_info(path.read_bytes()) == read_info(str(path))


class CountingContainer:
    """An open container that counts the packets taken from it."""

    def __init__(self, container: av.container.InputContainer) -> None:
        self._container = container
        self.num_packets = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._container, name)

    def demux(self, stream: av.VideoStream):  # type: ignore[no-untyped-def]
        for packet in self._container.demux(stream):
            self.num_packets += 1
            yield packet


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_reads_only_the_groups_of_pictures_that_it_needs(tmp_path: Path, name: str) -> None:
    """Three instants in three different groups of pictures, out of 25 groups of 12 frames."""
    path = render(tmp_path / name, "libx264", [i * 200 for i in range(300)])
    with open_video(str(path)) as (container, stream):
        counting = CountingContainer(container)
        cursor = pyav_reader.PictureCursor(counting, stream)  # type: ignore[arg-type]
        assert [cursor.at(time_s).start_s for time_s in (1.0, 30.0, 59.8)] == pytest.approx([1.0, 30.0, 59.8])
    assert counting.num_packets < 100
