"""Video decoding in a child process that can be killed: a bad video costs one error, never the caller.

Decoders hang or crash on some damaged files, at times while they hold the interpreter's lock, so that no thread or
signal handler can run: only another process can end that. This module owns the child process and its limits. What the
child does with a file is in `decode_child.py`; which instants to decode is chosen in `timeline.py`.

Shape letters: pixels T frames, H height, W width, C channels.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import sparrow_core
from sparrow_core.config import DecodeConfig
from sparrow_core.errors import MediaError
from sparrow_core.media.probe import VideoInfo
from sparrow_core.media.timeline import SamplingPlan
from sparrow_core.types import Frames

VideoSource = str | os.PathLike[str] | bytes

CHILD_COMMAND = (sys.executable, "-m", "sparrow_core.media.decode_child")
# Importing the decoders takes well under a second; a busy machine may need this long.
START_LIMIT_S = 60.0


class FrameDecoder:
    """Decodes one video at a time in its own child process; use several decoders to decode in parallel.

    The child starts with the first request and is killed when a request passes its deadline. The next request starts a
    new child after that, after a crash, and after `files_per_child` requests. All methods raise MediaError with a
    machine-readable `reason`, and the decoder remains usable. Threads may share a decoder: they take turns.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def probe(self, source: VideoSource) -> VideoInfo:
        """Duration, frame rate, displayed size and codec of a video, given by its path or its bytes."""
        return self._ask("probe", _plain(source))

    def frames(self, source: VideoSource, plan: SamplingPlan) -> Frames:
        """The frames shown at the plan's instants, in the plan's size, upright.

        A frame is shown from its presentation timestamp until the next frame's. `times_s` of the result are these
        timestamps, in seconds from the start of the video stream. May take twice `deadline_s`: if decord hangs or
        crashes, PyAV decodes the file again.
        """
        request = ("frames", _plain(source), plan.times_s, plan.height, plan.width)
        try:
            pixels_THWC, times_s = self._ask(*request, True)
        except _DecordDied:
            pixels_THWC, times_s = self._ask(*request, False)
        return Frames(pixels_THWC, tuple(times_s), plan.sampled_fps)

    def close(self) -> None:
        """End the child process. A later request starts a new one."""
        with self._lock:
            self._end_child()

    def __enter__(self) -> "FrameDecoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, *request: Any) -> Any:
        with self._lock:
            if self._child is None:
                self._child = _Child(self._config)
            try:
                answer = self._child.ask(request)
            except BaseException:
                # After a deadline, a crash or an interrupt the pipe may hold half an answer: never use it again.
                self._end_child()
                raise
            if self._child.num_requests >= self._config.files_per_child:
                self._end_child()
        if answer[0] == "error":
            raise MediaError(*answer[1:])
        return answer[1]

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class _DecordDied(MediaError):
    """The child hung or crashed while decord was decoding."""


class _Child:
    """A running decoding process and our end of its pipe."""

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self.num_requests = 0
        self._pipe, theirs = Pipe()
        self._process = _start(theirs)
        self._decord_at_work = False
        try:
            self._pipe.send(config)
            self._receive(START_LIMIT_S)
        except (MediaError, OSError) as error:
            self.kill()
            raise RuntimeError("the decoding process did not start; its error output says why") from error

    def ask(self, request: tuple[Any, ...]) -> tuple[Any, ...]:
        """Send a request and wait for its answer: ("result", value) or ("error", message, reason)."""
        self.num_requests += 1
        self._decord_at_work = False
        deadline = time.monotonic() + self._config.deadline_s
        try:
            self._pipe.send(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error
        while True:
            answer = self._receive(deadline - time.monotonic())
            if answer[0] in ("result", "error"):
                return answer
            self._decord_at_work = answer[0] == "trying_decord"

    def kill(self) -> None:
        """End the process at once, whatever it is doing. It has nothing to clean up."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _receive(self, limit_s: float) -> Any:
        try:
            if self._pipe.poll(max(0.0, limit_s)):
                return self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        kind = _DecordDied if self._decord_at_work else MediaError
        raise kind(
            f"no answer within deadline_s={self._config.deadline_s:g} s, decoding was stopped; raise it for very long "
            "or large videos",
            "timeout",
        )

    def _died(self) -> MediaError:
        code = self._process.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        kind = _DecordDied if self._decord_at_work else MediaError
        return kind(f"the decoding process died ({cause}) on this video", "crash")


def _start(pipe: Connection) -> "subprocess.Popen[bytes]":
    """Start the child with its end of the pipe.

    It is a new interpreter and not `multiprocessing`'s spawn method, which would import the caller's main module again:
    that may be a Ray worker, or a script without a `__main__` guard.
    """
    package_root = str(Path(sparrow_core.__file__).parents[1])
    # Idle thread pools of numeric libraries, and one heap per thread, would count against the memory limit.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH")))),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
    try:
        command = [*CHILD_COMMAND, str(pipe.fileno())]
        return subprocess.Popen(command, pass_fds=[pipe.fileno()], stdin=subprocess.DEVNULL, env=environment)
    finally:
        pipe.close()


def _plain(source: VideoSource) -> str | bytes:
    return source if isinstance(source, bytes) else os.fspath(source)
