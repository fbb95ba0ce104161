"""Frames at given instants with decord, for the files in which decord is known to be frame-exact.

decord numbers the packets of a file and takes the packet number for the frame number. That is silently wrong for codecs
and containers that it does not know, edit lists, streams that begin inside a group of pictures, and pictures that
follow a keyframe in the file but precede it on screen (open groups, the default of x265), where a seek drops frames. So
decord reads a file only if its packets, as PyAV sees them, rule all of this out and agree with decord's timestamps.
PyAV reads all other files.

decord has no wheel for arm64 machines and is optional. Used in the decoding child process.

Shape letters: pixels T frames, H height, W width, C channels.
"""

import io
from collections.abc import Sequence

import numpy as np

from sparrow_core.media.video_file import GAP_TOLERANCE_S, TIME_TOLERANCE_S, Source, open_video, resize, tick_s

try:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
except ImportError:
    decord = None

CODECS = {"h264", "hevc", "vp9"}
CONTAINERS = {"mp4", "matroska"}
# decord reads all packets of a file before the first frame; in longer videos a seek by PyAV is cheaper.
MAX_DURATION_S = 600.0


def exact_start_times(source: Source, last_s: float) -> np.ndarray | None:
    """When each picture appears, in seconds from the first one; None if decord cannot be relied on in this file.

    It can be if packet numbers are frame numbers and there are pictures up to `last_s`.
    """
    if decord is None:
        return None
    with open_video(source) as (container, stream):
        known = stream.codec_context.codec.canonical_name in CODECS
        known = known and not CONTAINERS.isdisjoint(container.format.name.split(","))
        if not known or not container.duration or container.duration / 1e6 > MAX_DURATION_S:
            return None
        keyframe_pts: int | None = None
        all_pts = []
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                return None
            if packet.is_keyframe:
                keyframe_pts = packet.pts
            if keyframe_pts is None or packet.pts < keyframe_pts:
                return None
            all_pts.append(packet.pts)
        starts_s = (np.sort(all_pts) - (stream.start_time or 0)) * tick_s(stream)
    complete = len(starts_s) and abs(starts_s[0]) <= TIME_TOLERANCE_S and starts_s[-1] >= last_s - GAP_TOLERANCE_S
    return starts_s if complete else None


def read_frames(
    source: Source, starts_s: np.ndarray, times_s: Sequence[float], height: int, width: int, num_threads: int
) -> tuple[np.ndarray, list[float]] | None:
    """What `pyav_reader.read_frames` returns, given the file's `exact_start_times`; None if decord fails on it."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        video = decord.VideoReader(file, ctx=decord.cpu(0), num_threads=num_threads)
        decord_starts_s = video.get_frame_timestamp(list(range(len(video))))[:, 0]
        if len(video) != len(starts_s) or np.ptp(decord_starts_s - starts_s) > TIME_TOLERANCE_S:
            return None
        frame_indices = np.searchsorted(starts_s, np.asarray(times_s) + TIME_TOLERANCE_S, side="right") - 1
        frame_indices = frame_indices.clip(min=0)
        pixels_THWC = np.empty((len(times_s), height, width, 3), np.uint8)
        for i, frame_index in enumerate(frame_indices):
            repeated = i > 0 and frame_index == frame_indices[i - 1]
            pixels_THWC[i] = pixels_THWC[i - 1] if repeated else resize(video[frame_index].asnumpy(), height, width)
    except decord.DECORDError:
        return None
    return pixels_THWC, starts_s[frame_indices].tolist()
