"""Facts about a video file that sampling needs: duration, frame rate, size. Used in the decoding child process."""

from dataclasses import dataclass

from sparrow_core.media.pyav_reader import PictureCursor
from sparrow_core.media.video_file import Source, open_video, quarter_turns, video_duration_s


@dataclass(frozen=True)
class VideoInfo:
    """Duration of the pictures in seconds, average frame rate in frames per second (0: unknown), and size in px as
    displayed, with rotation applied.
    """

    duration_s: float
    fps: float
    width: int
    height: int
    codec: str


def read_info(source: Source) -> VideoInfo:
    """Facts about a video. Decodes one picture, which carries the rotation and shows that pictures decode.

    Raises MediaError as `open_video` does, or `unreadable` if no picture decodes.
    """
    with open_video(source) as (container, stream):
        first = PictureCursor(container, stream).current.frame
        upright = quarter_turns(first) % 2 == 0
        return VideoInfo(
            duration_s=video_duration_s(container, stream),
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            width=first.width if upright else first.height,
            height=first.height if upright else first.width,
            codec=stream.codec_context.codec.canonical_name,
        )
