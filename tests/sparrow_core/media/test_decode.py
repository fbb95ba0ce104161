"""The decoding process: a limit, a crash or a damaged file costs one typed error, and the next video decodes."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from sparrow_core.config import DecodeConfig, FrameSamplingConfig
from sparrow_core.errors import MediaError
from sparrow_core.media import decode
from sparrow_core.media.decode import FrameDecoder
from sparrow_core.media.patches import PatchSpec
from sparrow_core.media.timeline import SamplingPlan, plan_frames
from tests.sparrow_core.media.videos import HEIGHT, WIDTH, number_of, render, write_sound

STEADY = [i * 40 for i in range(50)]


@pytest.fixture(scope="module")
def decoder() -> Iterator[FrameDecoder]:
    with FrameDecoder(DecodeConfig()) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("videos") / "good.mp4", "libx264", STEADY)


def plan_at(*times_s: float) -> SamplingPlan:
    return SamplingPlan(times_s, height=56, width=84, sampled_fps=2.0, visual_tokens=0)


def assert_decodes(decoder: FrameDecoder, video: Path) -> None:
    frames = decoder.frames(video, plan_at(0.4, 1.2))
    assert [number_of(pixels) for pixels in frames.pixels_THWC] == [10, 30]
    assert frames.times_s == pytest.approx([0.4, 1.2])


def failure(decoder: FrameDecoder, source: str | Path | bytes, *times_s: float) -> MediaError:
    with pytest.raises(MediaError) as caught:
        decoder.frames(source, plan_at(*times_s or (0.0,)))
    assert isinstance(caught.value, ValueError)
    return caught.value


def child_pid(decoder: FrameDecoder) -> int:
    assert decoder._child is not None
    return decoder._child._process.pid


def test_from_a_file_to_planned_frames(decoder: FrameDecoder, video: Path) -> None:
    info = decoder.probe(video)
    assert (info.height, info.width, info.codec) == (HEIGHT, WIDTH, "h264")
    assert (info.duration_s, info.fps) == pytest.approx((2.0, 25.0))
    plan = plan_frames(0, info.duration_s, info.height, info.width, FrameSamplingConfig(fps=2), PatchSpec(), info.fps)
    frames = decoder.frames(video.read_bytes(), plan)
    assert frames.pixels_THWC.shape == (4, plan.height, plan.width, 3)
    assert [number_of(pixels) for pixels in frames.pixels_THWC] == [6, 18, 31, 43]
    assert frames.times_s == pytest.approx([0.24, 0.72, 1.24, 1.72])
    assert frames.sampled_fps == plan.sampled_fps == 2.0


def write_bad_file(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    match kind:
        case "text":
            path.write_text("These are words, not pictures.\n" * 50)
        case "empty":
            path.touch()
        case "sound":
            write_sound(path)
        case "header_cut_off":
            whole = render(folder / "whole.mp4", "libx264", STEADY).read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "playlist":
            good = render(folder / "part.ts", "libx264", STEADY)
            path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{good}\n#EXT-X-ENDLIST\n")
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("absent", "missing"),
        ("text", "unreadable"),
        ("empty", "unreadable"),
        ("header_cut_off", "unreadable"),
        ("playlist", "unreadable"),
        ("sound", "no_video_stream"),
    ],
)
def test_bad_files_have_their_reason(
    decoder: FrameDecoder, video: Path, tmp_path: Path, kind: str, reason: str
) -> None:
    path = write_bad_file(kind, tmp_path)
    assert failure(decoder, path).reason == reason
    with pytest.raises(MediaError) as caught:
        decoder.probe(path)
    assert caught.value.reason == reason
    assert_decodes(decoder, video)


def test_a_span_after_the_end_is_empty(decoder: FrameDecoder, video: Path) -> None:
    assert failure(decoder, video, 7.0, 8.0).reason == "empty_span"


def test_a_file_cut_off_in_the_middle_gives_the_windows_that_it_holds(tmp_path: Path) -> None:
    pts_ms = [i * 40 for i in range(250)]
    path = render(tmp_path / "cut.mp4", "libx264", pts_ms, muxer_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with FrameDecoder(DecodeConfig(max_missing_share=0.25)) as decoder:
        assert decoder.probe(path).duration_s == pytest.approx(10.0)
        assert [number_of(p) for p in decoder.frames(path, plan_at(0.4, 1.2, 2.0)).pixels_THWC] == [10, 30, 50]
        error = failure(decoder, path, 1.0, 2.0, 8.0, 9.0)
        assert error.reason == "partial"
        assert "2 of the 4" in str(error)
        tolerated = decoder.frames(path, plan_at(1.0, 2.0, 3.0, 9.0))
        assert max(tolerated.times_s) < 9.0, "the stand-in for a lost picture keeps its own time"


def test_damage_in_the_middle_costs_the_pictures_in_it(tmp_path: Path) -> None:
    path = render(tmp_path / "hole.mp4", "libx264", [i * 40 for i in range(250)])
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 10 : len(data) * 6 // 10] = bytes(len(data) * 3 // 10)
    path.write_bytes(data)
    with FrameDecoder(DecodeConfig()) as decoder:
        assert [number_of(p) for p in decoder.frames(path, plan_at(0.4, 1.2, 9.6)).pixels_THWC] == [10, 30, 240]
        assert failure(decoder, path, 0.4, 4.5, 9.6).reason == "partial"


def test_a_hanging_decode_is_killed_at_the_deadline(video: Path, tmp_path: Path) -> None:
    """Opening a pipe without a writer blocks in the kernel, as a dead network mount does."""
    os.mkfifo(tmp_path / "hang.mp4")
    with FrameDecoder(DecodeConfig(deadline_s=3.0)) as decoder:
        assert_decodes(decoder, video)
        started = time.monotonic()
        error = failure(decoder, tmp_path / "hang.mp4")
        assert error.reason == "timeout"
        assert "deadline_s=3" in str(error)
        assert 3.0 <= time.monotonic() - started < 6.0, "PyAV alone opens the file first: no second try"
        assert_decodes(decoder, video)


def test_a_crash_is_an_error_of_one_video(video: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hang.mp4")
    with FrameDecoder(DecodeConfig()) as decoder:
        assert_decodes(decoder, video)
        crash = threading.Timer(0.3, os.kill, (child_pid(decoder), signal.SIGSEGV))
        crash.start()
        error = failure(decoder, tmp_path / "hang.mp4")
        assert error.reason == "crash"
        assert "SIGSEGV" in str(error)
        assert_decodes(decoder, video)


@pytest.mark.parametrize("disaster", ["time.sleep(600)", "os.kill(os.getpid(), 11)"])
def test_pyav_reads_files_on_which_decord_dies(video: Path, monkeypatch: pytest.MonkeyPatch, disaster: str) -> None:
    """decord is known to loop for ever on some files with the interpreter's lock held; here its reader is replaced."""
    program = (
        "import os, sys, time; from multiprocessing.connection import Connection\n"
        "from sparrow_core.media import decode_child, decord_reader\n"
        f"decord_reader.read_frames = lambda *_: {disaster}\n"
        "decode_child.main(Connection(int(sys.argv[1])))"
    )
    monkeypatch.setattr(decode, "CHILD_COMMAND", (sys.executable, "-c", program))
    with FrameDecoder(DecodeConfig(deadline_s=3.0)) as decoder:
        assert_decodes(decoder, video)


def test_memory_limit(video: Path, tmp_path: Path) -> None:
    """A frame of 5120x5120 px takes 40 MB decoded (several are held) and 180 MB as RGB, beside 300 MB of code."""
    with av.open(str(tmp_path / "huge.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 5120
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(stream.width, stream.height, "yuv420p")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with FrameDecoder(DecodeConfig(memory_limit_bytes=512 * 2**20)) as decoder:
        error = failure(decoder, tmp_path / "huge.mp4")
        assert error.reason == "out_of_memory"
        assert "512 MiB" in str(error)
        assert_decodes(decoder, video)


def test_the_child_is_renewed_and_ended(video: Path) -> None:
    decoder = FrameDecoder(DecodeConfig(files_per_child=2))
    assert decoder._child is None, "the child starts with the first request"
    decoder.probe(video)
    first = child_pid(decoder)
    decoder.probe(video)
    decoder.probe(video)
    second = child_pid(decoder)
    decoder.close()
    assert first != second
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_idle_child_ends_with_its_parent(video: Path) -> None:
    """The kernel closes a dead parent's end of the pipe."""
    decoder = FrameDecoder(DecodeConfig())
    decoder.probe(video)
    assert decoder._child is not None
    decoder._child._pipe.close()
    assert decoder._child._process.wait(timeout=60) == 0


def test_a_hanging_child_ends_without_its_parent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hang.mp4")
    child = decode._Child(DecodeConfig(deadline_s=0.4))
    child._pipe.send(("probe", str(tmp_path / "hang.mp4")))
    assert child._process.wait(timeout=60) == -signal.SIGALRM


def test_the_child_is_light(decoder: FrameDecoder, video: Path) -> None:
    """The child must not load torch, which would cost seconds per start and gigabytes of address space."""
    decoder.probe(video)
    loaded = Path(f"/proc/{child_pid(decoder)}/maps").read_text()
    assert "libav" in loaded
    assert "torch" not in loaded


def test_threads_take_turns(decoder: FrameDecoder, video: Path) -> None:
    found: list[int] = []

    def read(number: int) -> None:
        frames = decoder.frames(video, plan_at(number * 0.04))
        found.append(number_of(np.asarray(frames.pixels_THWC[0])) - number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(0, 50, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * 10
