"""Facts about a video file that planning needs. Used in the decoding child process; knows nothing of plans."""

from dataclasses import dataclass

from sparrow_core.media.pyav_reader import PictureCursor
from sparrow_core.media.video_file import Source, open_video, quarter_turns, video_duration_s


@dataclass(frozen=True)
class VideoInfo:
    """Size in px as displayed (rotation applied), duration of the picture in seconds, average frame rate (0:
    unknown)."""

    duration_s: float
    fps: float
    width: int
    height: int
    codec: str


def read_info(source: Source) -> VideoInfo:
    """Facts about a video. Decodes one picture: rotation is stored with pictures, and it shows that they decode."""
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
