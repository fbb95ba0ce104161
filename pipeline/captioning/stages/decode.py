"""Stage 3: decode the frames of a window. One WINDOW row in, one FRAMES row out; knows nothing of models."""

import time

import numpy as np
import pyarrow as pa

from pipeline.captioning.stages.boundary import for_each_row
from pipeline.common.rows import FRAMES, Row
from pipeline.common.storage import local_copy
from sparrow_core.config import DecodeConfig, FrameSamplingConfig
from sparrow_core.media.decode import FrameDecoder
from sparrow_core.media.frame_spec import FrameSpec
from sparrow_core.media.timeline import plan_frames
from sparrow_core.types import Frames


class DecodeWindows:
    """Callable from WINDOW rows to FRAMES rows; holds one decoding child process for the life of its worker."""

    def __init__(self, config: DecodeConfig, sampling: FrameSamplingConfig, frame_spec: FrameSpec) -> None:
        self._decoder = FrameDecoder(config)
        self._sampling = sampling
        self._frame_spec = frame_spec

    def __call__(self, windows: pa.Table) -> pa.Table:
        return for_each_row(windows, self._decode, FRAMES)

    def _decode(self, row: Row) -> list[Row]:
        began = time.perf_counter()
        plan = plan_frames(
            row["start_s"],
            row["end_s"],
            row["height"],
            row["width"],
            self._sampling,
            self._frame_spec,
            row["src_fps"] or None,
        )
        with local_copy(row["source_uri"]) as path:
            frames = self._decoder.frames(path, plan)
        num_frames, height, width, _ = frames.pixels_THWC.shape
        return [
            row
            | {
                "sampled_fps": frames.sampled_fps,
                "frame_times": list(frames.times_s),
                "n_frames": num_frames,
                "t_decode_s": time.perf_counter() - began,
                "pixels": frames.pixels_THWC.tobytes(),
                "pixels_height": height,
                "pixels_width": width,
            }
        ]


def frames_of(row: Row) -> Frames:
    """The frames of a FRAMES row. Removes `pixels` from the row, to free their memory."""
    shape = (row["n_frames"], row["pixels_height"], row["pixels_width"], 3)
    pixels = np.frombuffer(row.pop("pixels"), np.uint8).reshape(shape).copy()
    return Frames(pixels, tuple(row["frame_times"]), row["sampled_fps"])
