"""Writes and reads H.264 MP4 files, and rendered scenes as such files, through PyAV."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from demo.world.render import render
from demo.world.scenes import Scene


def write_mp4(target: Path | io.BytesIO, frames: np.ndarray, fps: float, crf: int = 18, preset: str = "fast") -> None:
    """Encode frames uint8 [T, H, W, 3] (even H and W) as H.264, yuv420p."""
    with av.open(str(target) if isinstance(target, Path) else target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.thread_count = 1
        stream.options = {"crf": str(crf), "preset": preset}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def read_mp4(source: Path | io.BytesIO) -> np.ndarray:
    """Decode every frame of a clip, uint8 [T, H, W, 3]."""
    with av.open(str(source) if isinstance(source, Path) else source, "r") as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def through_codec(frames: np.ndarray, fps: float, crf: int) -> np.ndarray:
    """Encode and decode the frames: the same clip with real compression losses."""
    buffer = io.BytesIO()
    write_mp4(buffer, frames, fps, crf=crf, preset="ultrafast")
    buffer.seek(0)
    return read_mp4(buffer)


def write_scene(path: Path, scene: Scene, oversampling: int = 4) -> None:
    """Render the scene to an MP4 file with `oversampling` stored frames per sampled one."""
    fps = scene.difficulty.fps * oversampling
    times_s = np.arange(scene.difficulty.num_frames * oversampling) / fps
    frames, _ = render(scene, times_s)
    write_mp4(path, frames, fps)
