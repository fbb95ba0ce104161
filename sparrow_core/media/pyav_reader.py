"""Frames at given instants with PyAV: any codec, any frame rate, damaged files.

Frames are selected by their presentation timestamps alone. All times are in seconds from the start of the video stream.
Used in the decoding child process; knows nothing of plans, deadlines or processes.

Shape letters: pixels T frames, H height, W width, C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sparrow_core.errors import MediaError
from sparrow_core.media.video_file import (
    GAP_TOLERANCE_S,
    TIME_TOLERANCE_S,
    Source,
    frame_interval_s,
    open_video,
    resize,
    tick_s,
    to_rgb,
    video_duration_s,
)

# In a file without an index of keyframes, decoding on is assumed to be cheaper than a seek up to this distance.
BLIND_SEEK_S = 10.0


def read_frames(
    source: Source, times_s: Sequence[float], height: int, width: int, num_threads: int, max_missing_share: float
) -> tuple[np.ndarray, list[float]]:
    """The frames shown at the instants `times_s`, which must rise: uint8 RGB [T, height, width, 3], and when each of
    them appeared.

    An instant whose picture is lost gets the picture before it, provided that at most `max_missing_share` of all are
    lost. Raises MediaError as `open_video` does, and `unreadable` if nothing decodes, `empty_span` if all instants lie
    after the video's end, `partial` if more pictures are lost than allowed.
    """
    with open_video(source, num_threads) as (container, stream):
        cursor = PictureCursor(container, stream)
        pixels_THWC = np.empty((len(times_s), height, width, 3), np.uint8)
        shown_s: list[float] = []
        num_missing = 0
        last_frame = None
        for i, time_s in enumerate(times_s):
            picture = cursor.at(time_s)
            repeated = picture.frame is last_frame
            pixels_THWC[i] = pixels_THWC[i - 1] if repeated else resize(to_rgb(picture.frame), height, width)
            last_frame = picture.frame
            shown_s.append(picture.start_s)
            num_missing += cursor.is_missing(time_s)
        if num_missing > max_missing_share * len(times_s):
            raise _missing_error(num_missing, times_s, max_missing_share, video_duration_s(container, stream))
    return pixels_THWC, shown_s


def _missing_error(num_missing: int, times_s: Sequence[float], max_share: float, duration_s: float) -> MediaError:
    span = f"{times_s[0]:.3f}..{times_s[-1]:.3f} s"
    if times_s[0] >= duration_s:
        return MediaError(f"the instants {span} lie after the end of the video at {duration_s:.3f} s", "empty_span")
    return MediaError(
        f"{num_missing} of the {len(times_s)} pictures at {span} are lost to damaged or cut-off data, more than the "
        f"allowed share of {max_share:g}; repair the file or raise max_missing_share",
        "partial",
    )


@dataclass(frozen=True)
class Picture:
    """A decoded frame, when it appears, and the earliest end of its display."""

    frame: VideoFrame
    start_s: float
    end_s: float


class PictureCursor:
    """Walks forward through a video's pictures and skips what need not be decoded. Holds two pictures at a time.

    Raises MediaError (`unreadable`) if no picture decodes.
    """

    current: Picture
    _next: Picture | None
    _pictures: Iterator[Picture]
    _failed_s: list[float]

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container = container
        self._stream = stream
        self._tick_s = tick_s(stream)
        self._interval_s = frame_interval_s(stream)
        # AVI stores no presentation times and guesses of them are out of order; its pictures appear in decode order.
        self._by_decode_time = container.format.name == "avi"
        self._origin = None if self._by_decode_time else stream.start_time
        if not self._restart(from_keyframe=False):
            raise MediaError("not one picture of the video stream can be decoded", "unreadable")

    def at(self, time_s: float) -> Picture:
        """The picture shown at `time_s`: the last to appear by then, or the first of all. Times must not decrease."""
        if self._jump_pays(time_s):
            self._jump(time_s)
        while self._next is not None and self._next.start_s <= time_s + TIME_TOLERANCE_S:
            self.current, self._next = self._next, next(self._pictures, None)
        return self.current

    def is_missing(self, time_s: float) -> bool:
        """Whether the picture of `time_s` is lost, so that the current one replaces it.

        `time_s` must not be less than in the last call of `at`.
        """
        if self.current.start_s - GAP_TOLERANCE_S <= time_s <= self.current.end_s + GAP_TOLERANCE_S:
            return False
        if time_s < self.current.start_s or self._next is None:
            return True
        return any(self.current.start_s < failed_s < self._next.start_s for failed_s in self._failed_s)

    def _jump_pays(self, time_s: float) -> bool:
        """Whether there is a keyframe between the current picture and `time_s`; a guess if the file has no index."""
        index = self._stream.index_entries
        if len(index) and self._seconds(index[len(index) - 1].timestamp) >= time_s:
            nearest = index.search_timestamp(self._ticks(time_s))
            return nearest >= 0 and self._seconds(index[nearest].timestamp) > self.current.end_s
        return time_s - self.current.end_s > BLIND_SEEK_S

    def _jump(self, time_s: float) -> None:
        """Move to the keyframe before `time_s`, seeking further back as long as a seek lands after it."""
        margin_s = 0.0
        while True:
            landing_s = max(0.0, time_s - margin_s)
            try:
                self._container.seek(self._ticks(landing_s), stream=self._stream)
            except av.FFmpegError:  # a file without seeking is read from front to back
                return
            found = self._restart(from_keyframe=landing_s > 0)
            if landing_s == 0 or (found and self.current.start_s <= time_s + TIME_TOLERANCE_S):
                return
            margin_s = max(1.0, 2 * margin_s)

    def _restart(self, from_keyframe: bool) -> bool:
        """Start decoding at the container's position. If no picture follows, return False and change nothing."""
        self._failed_s = []
        pictures = self._decode(from_keyframe)
        first = next(pictures, None)
        if first is None:
            return False
        self.current, self._pictures, self._next = first, pictures, next(pictures, None)
        return True

    def _decode(self, from_keyframe: bool) -> Iterator[Picture]:
        """Pictures from here on. After a seek, those before the keyframe lack references: skip them."""
        end_s = 0.0
        for frame in self._frames():
            if from_keyframe and not frame.key_frame:
                continue
            from_keyframe = False
            ticks = frame.dts if self._by_decode_time else frame.pts
            start_s = end_s if ticks is None else self._seconds(ticks)
            end_s = start_s + (frame.duration * self._tick_s or self._interval_s)
            yield Picture(frame, start_s, end_s)

    def _frames(self) -> Iterator[VideoFrame]:
        """Frames that decode, in display order. Records packets that fail; ends where the file cannot be read on."""
        packets = self._container.demux(self._stream)
        while True:
            packet = None
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                yield from packet.decode()
            except MemoryError:
                raise
            except av.FFmpegError:
                if packet is None:
                    return
                if packet.pts is not None:
                    self._failed_s.append(self._seconds(packet.pts))

    def _ticks(self, time_s: float) -> int:
        return int(time_s / self._tick_s) + (self._origin or 0)

    def _seconds(self, ticks: int) -> float:
        if self._origin is None:
            self._origin = ticks
        return (ticks - self._origin) * self._tick_s
