"""Video files in which every frame shows its own number, so that a test can tell which frame it was given."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 128, 192
ROWS, COLUMNS = 2, 6
DARK, BRIGHT = 25, 230
QUIET_X265 = {"x265-params": "log-level=none:pools=1"}
FAST_VP9 = {"deadline": "realtime", "cpu-used": "8"}


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """RGB picture of 12 blocks, one for each bit of `number`, which survive compression and resizing."""
    bits = np.array([number >> bit & 1 for bit in range(ROWS * COLUMNS)], np.uint8).reshape(ROWS, COLUMNS)
    grey = (DARK + bits * (BRIGHT - DARK)).repeat(height // ROWS, axis=0).repeat(width // COLUMNS, axis=1)
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def number_of(pixels_HWC: np.ndarray) -> int:
    """The number that a decoded picture shows."""
    height, width = pixels_HWC.shape[:2]
    rows = ((np.arange(ROWS) + 0.5) * height / ROWS).astype(int)
    columns = ((np.arange(COLUMNS) + 0.5) * width / COLUMNS).astype(int)
    bits = pixels_HWC[rows][:, columns].mean(axis=2).ravel() > (DARK + BRIGHT) / 2
    return sum(1 << bit for bit, is_bright in enumerate(bits) if is_bright)


def render(
    path: Path,
    codec: str,
    pts_ms: Sequence[int],
    *,
    options: dict[str, str] | None = None,
    muxer_options: dict[str, str] | None = None,
    shift_ms: int = 0,
    quarter_turns: int = 0,
    gop: int = 12,
    clock: Fraction = Fraction(1, 1000),
) -> Path:
    """Write a video whose frame i shows number i and appears at `pts_ms[i]`; muxing shifts all frames by `shift_ms`."""
    first = np.rot90(picture(0), quarter_turns)
    with av.open(str(path), "w", options=muxer_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.gop_size, stream.time_base = "yuv420p", gop, clock
        stream.codec_context.time_base = clock
        for number, pts in enumerate([*pts_ms, None]):
            frame = None
            if pts is not None:
                pixels = np.ascontiguousarray(np.rot90(picture(number), quarter_turns))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = round(Fraction(pts, 1000) / clock), clock
            for packet in stream.encode(frame):
                assert packet.pts is not None and packet.dts is not None
                shift = int(Fraction(shift_ms, 1000) / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                container.mux(packet)
    return path


def set_rotation(path: Path, clockwise_quarter_turns: int) -> Path:
    """Rewrite the display matrix of an MP4's only track, so that players turn the stored picture clockwise."""
    a, b = {0: (1, 0), 1: (0, 1), 2: (-1, 0), 3: (0, -1)}[clockwise_quarter_turns]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # ISO 14496-12, 8.3.2, version 0: the matrix follows 40 bytes of fields
    data[start : start + len(matrix)] = matrix
    path.write_bytes(data)
    return path


def write_sound(path: Path) -> Path:
    """Write a sound file with one second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path
