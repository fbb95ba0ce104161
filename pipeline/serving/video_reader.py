"""Reads the videos of requests outside the event loop: media guard, limits, and the captioning job's frame sampling."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from pipeline.serving.config import MediaLimits, ServeConfig
from pipeline.serving.errors import as_api_error
from pipeline.serving.media_guard import resolve_video_url
from sparrow_core.errors import MediaError, SparrowError
from sparrow_core.media.decode import FrameDecoder
from sparrow_core.media.frame_spec import FrameSpec
from sparrow_core.media.probe import VideoInfo
from sparrow_core.media.timeline import plan_frames
from sparrow_core.types import Frames


class VideoReader:
    """Decodes up to `http.decoders` videos at once, each in its own child process."""

    def __init__(self, config: ServeConfig, frame_spec: FrameSpec) -> None:
        http = config.http
        self._root = Path(http.media_root).resolve() if http.media_root else None
        self._limits = http.limits
        self._sampling = config.frames
        self._frame_spec = frame_spec
        self._threads = ThreadPoolExecutor(http.decoders, thread_name_prefix="decode")
        self._idle: SimpleQueue[FrameDecoder] = SimpleQueue()
        for _ in range(http.decoders):
            self._idle.put(FrameDecoder(config.decode))

    async def read(self, url: str, param: str) -> Frames:
        """The frames of the whole video at `url`. Raises ApiError that names `param`, the field that held the URL."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, url)
        except SparrowError as error:
            answer = as_api_error(error)
            answer.param = param
            raise answer from error

    def close(self) -> None:
        """End the idle child processes. A busy one ends with its video, at its deadline, or with this process."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def _read(self, url: str) -> Frames:
        source = resolve_video_url(url, self._root, self._limits)
        decoder = self._idle.get_nowait()  # never empty: there are as many decoders as threads
        try:
            info = decoder.probe(source)
            _check(info, self._limits)
            plan = plan_frames(
                0.0, info.duration_s, info.height, info.width, self._sampling, self._frame_spec, info.fps or None
            )
            return decoder.frames(source, plan)
        finally:
            self._idle.put(decoder)


def _check(info: VideoInfo, limits: MediaLimits) -> None:
    if info.duration_s > limits.max_duration_s:
        raise MediaError(
            f"the video lasts {info.duration_s:.1f} s, over this endpoint's limit of "
            f"max_duration_s={limits.max_duration_s:g}",
            "too_large",
        )
    if info.height * info.width > limits.max_frame_px:
        raise MediaError(
            f"pictures of {info.height}x{info.width} px are over this endpoint's limit of "
            f"max_frame_px={limits.max_frame_px}",
            "too_large",
        )
