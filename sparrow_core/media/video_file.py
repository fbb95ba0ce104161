"""Video files opened with PyAV, and what all readers of frames share: clock tolerances, rotation, resizing.

Used in the decoding child process, so it imports neither torch nor anything that does. Knows nothing of instants,
deadlines or processes.

Shape letters: pixels H height, W width, C channels.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from sparrow_core.errors import MediaError

Source = str | bytes

# Containers round timestamps to milliseconds: a frame that appears this much after an instant still counts as "at" it.
TIME_TOLERANCE_S = 1e-3
# An instant this much later than the end of the current picture's display has no picture of its own: it is missing.
GAP_TOLERANCE_S = 0.5
# Plain containers only: playlist formats (HLS, concat) would open other files and addresses named inside the video.
FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf,ivf,gif"


@contextmanager
def open_video(source: Source, num_threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file, given by its path or its bytes, and its main video stream.

    Raises MediaError: `missing`, `unreadable`, or `no_video_stream` (the cover picture of a sound file does not count).
    """
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        container = av.open(file, mode="r", container_options=options)
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {source!r}", "missing") from error
    except MemoryError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"not a readable video file: {error}", "unreadable") from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise MediaError("the file holds no video stream", "no_video_stream")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = num_threads
        yield container, stream


def tick_s(stream: VideoStream) -> float:
    """Seconds per unit of the stream's timestamps."""
    assert stream.time_base is not None, "streams of an input container have a time base"
    return float(stream.time_base)


def frame_interval_s(stream: VideoStream) -> float:
    """Average seconds from one picture to the next; 1/25 if the file does not say."""
    return 1 / float(stream.average_rate or stream.guessed_rate or 25)


def video_duration_s(container: InputContainer, stream: VideoStream) -> float:
    """Seconds from the first picture to the end of the last: the stream's own figure, or else from its last timestamps.

    The container's duration is not used: it includes longer sound and start offsets, and may be absent. Moves the
    container's read position.
    """
    if stream.duration:
        return stream.duration * tick_s(stream)
    container.seek(container.duration or 0)
    tick, interval_s = tick_s(stream), frame_interval_s(stream)
    ends_s = [p.pts * tick + (p.duration or 0) * tick for p in container.demux(stream) if p.pts is not None]
    return max(max(ends_s, default=0.0) - (stream.start_time or 0) * tick, interval_s)


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that make a frame upright, from its display matrix."""
    return round(frame.rotation / 90) % 4


def to_rgb(frame: VideoFrame) -> np.ndarray:
    """Upright uint8 RGB [H, W, 3] of a decoded frame, at its own size."""
    return np.rot90(frame.to_ndarray(format="rgb24", threads=1), quarter_turns(frame))


def resize(pixels_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize to uint8 [height, width, 3]: bicubic with antialiasing, as in the image processors of video LLMs."""
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
