"""Errors that a user can correct. Every message names the value, the limit and the remedy.

Anything else (a broken invariant, a CUDA error) is a defect or a machine fault and propagates unchanged.
"""


class SparrowError(Exception):
    """Base class of all errors that Sparrow raises on purpose."""


class ConfigError(SparrowError, ValueError):
    """A setting, argument or request that cannot be honoured as given."""


class CheckpointError(SparrowError, ValueError):
    """A model folder that is missing, incomplete, or made for another target."""


class MediaError(SparrowError, ValueError):
    """A video or image that cannot be turned into frames.

    `reason` is machine-readable and goes into the caption table: missing, unreadable, no_video_stream, empty_span,
    partial, timeout, crash, out_of_memory, too_large, unsupported_size.
    """

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str]]:
        return MediaError, (str(self), self.reason)


class TrainingDivergedError(SparrowError, ArithmeticError):
    """The loss of a training run is no longer a finite number."""


class EngineClosedError(SparrowError, RuntimeError):
    """A request was submitted to an engine that has been closed or whose thread has died."""
