"""The decoding child process: takes requests from a pipe, answers with facts and frames, may be killed at any moment.

Started by `decode.py` as `python -m sparrow_core.media.decode_child FD`. It limits its own memory, and its own time in
case no parent is left to kill it. An exception that is not about the video ends the process with a traceback.
"""

import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import av
import numpy as np

from sparrow_core.config import DecodeConfig
from sparrow_core.errors import MediaError
from sparrow_core.media import decord_reader, pyav_reader
from sparrow_core.media.probe import VideoInfo, read_info
from sparrow_core.media.video_file import Source


def main(pipe: Connection) -> None:
    """Serve requests until the other end of the pipe closes. The first message is the configuration."""
    config: DecodeConfig = pipe.recv()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (config.memory_limit_bytes, config.memory_limit_bytes))
    pipe.send(("ready",))
    while True:
        try:
            task, *arguments = pipe.recv()
        except EOFError:
            return
        # The parent kills this process at the deadline. If it is gone, the kernel does, even while Python is stuck.
        signal.alarm(int(2 * config.deadline_s) + 1)
        try:
            pipe.send(("result", TASKS[task](pipe, config, *arguments)))
        except MediaError as error:
            pipe.send(("error", str(error), error.reason))
        except MemoryError:
            limit = f"{config.memory_limit_bytes / 2**20:.0f} MiB"
            pipe.send(("error", f"decoding needs more than memory_limit_bytes ({limit}); raise it", "out_of_memory"))
        except (av.FFmpegError, OSError) as error:
            pipe.send(("error", f"cannot be decoded: {error}", "unreadable"))
        signal.alarm(0)


def _probe(pipe: Connection, config: DecodeConfig, source: Source) -> VideoInfo:
    return read_info(source)


def _frames(
    pipe: Connection,
    config: DecodeConfig,
    source: Source,
    times_s: Sequence[float],
    height: int,
    width: int,
    try_decord: bool,
) -> tuple[np.ndarray, list[float]]:
    """Use decord first where it is exact. The parent is told, so that after a crash it can ask again without decord."""
    starts_s = decord_reader.exact_start_times(source, times_s[-1]) if try_decord else None
    if starts_s is not None:
        pipe.send(("trying_decord",))
        result = decord_reader.read_frames(source, starts_s, times_s, height, width, config.num_threads)
        if result is not None:
            return result
        pipe.send(("trying_pyav",))
    return pyav_reader.read_frames(source, times_s, height, width, config.num_threads, config.max_missing_share)


TASKS: dict[str, Callable[..., Any]] = {"probe": _probe, "frames": _frames}

if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
