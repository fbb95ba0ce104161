"""The engine inside a worker process: loading it from checkpoints, awaiting completions, dying with it."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from pipeline.common.rows import Row, to_table
from pipeline.common.storage import local_folder
from sparrow_core.config import EngineConfig
from sparrow_core.drafters.artefact import load_drafter
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.errors import EngineClosedError, SparrowError
from sparrow_core.targets.loading import load_target
from sparrow_core.threads import on_temporary_thread
from sparrow_core.types import Completion, Request

_log = logging.getLogger(__name__)


class Models(Protocol):
    """The settings that every worker config has: checkpoints, device, dtype and the engine's limits."""

    @property
    def target(self) -> str: ...
    @property
    def draft(self) -> str | None: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def engine(self) -> EngineConfig: ...


@dataclass(frozen=True)
class WorkerModels:
    """The plain implementation of `Models`."""

    target: str
    draft: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    engine: EngineConfig = field(default_factory=EngineConfig)


def worker_engine(models: Models) -> Engine:
    """Load the target and, if one is named, the drafter. Raises CheckpointError if either cannot be loaded."""

    def load() -> Engine:
        target = load_target(models.target, device=models.device, dtype=models.dtype)
        return Engine(target, load_drafter(local_folder(models.draft), target) if models.draft else None, models.engine)

    return on_temporary_thread(load)


async def completions(engine: Engine, request: Request, modes: Sequence[DecodeMode]) -> list[Completion]:
    """One completion per decode mode, all from the same prefill.

    Raises an error of the request itself (SparrowError) unchanged. Any other error means that the engine is broken, and
    is raised as EngineClosedError.
    """
    futures = [asyncio.wrap_future(ticket.future) for ticket in engine.submit_modes(request, modes)]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    for error in outcomes:
        if isinstance(error, SparrowError):
            raise error
        if isinstance(error, BaseException):
            raise EngineClosedError(f"the engine failed: {type(error).__name__}: {error}") from error
    return [outcome for outcome in outcomes if isinstance(outcome, Completion)]


async def fill_rows(windows: pa.Table, fill: Callable[[Row], Awaitable[None]], schema: pa.Schema) -> pa.Table:
    """Apply `fill`, which completes a row in place, to all rows concurrently. Returns a table of `schema`.

    If the engine has died, this ends the worker's process: only then does Ray retry its windows, in a new worker.
    """
    rows = windows.to_pylist()
    try:
        await asyncio.gather(*(fill(row) for row in rows))
    except EngineClosedError:
        _log.critical("the engine of this worker died; ending the worker", exc_info=True)
        os._exit(1)
    return to_table(rows, schema)
