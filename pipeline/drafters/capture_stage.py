"""Capture stage: decodes windows with the worker's Engine and stores their hidden states, without captioning.

Owns the CAPTURED row of a window. `captioning.stages.capture` decides what is recorded and where it is stored.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from pipeline.captioning.stages.boundary import row_boundary
from pipeline.captioning.stages.capture import CaptureSink, WindowCapture
from pipeline.common.rows import CAPTURED, Row
from pipeline.common.worker_engine import WorkerModels, completions, fill_rows, worker_engine
from sparrow_core.types import Request


@dataclass(frozen=True)
class NamedWindow:
    """A window to capture: its name, its number (which seeds the sampling of its captions), its request, and the video
    that it was cut from, if any."""

    name: str
    number: int
    request: Request
    source_uri: str | None = None


WindowOf = Callable[[Row], NamedWindow]
"""Row -> the window that it stands for; may decode frames, so it runs on another thread."""


@dataclass(frozen=True)
class CaptureWorkerConfig:
    """Settings of a capture worker: its checkpoints, where hidden states are stored, and torch's thread count."""

    models: WorkerModels
    sink: CaptureSink
    threads: int


class CaptureWindows:
    """Async callable on tables with one row per window: captures each window and completes its row (CAPTURED)."""

    def __init__(self, worker: CaptureWorkerConfig, window_of: WindowOf) -> None:
        torch.set_num_threads(worker.threads)
        self._window_of = window_of
        self._engine = worker_engine(worker.models)
        self._capture = WindowCapture(self._engine, worker.sink)
        self._config = worker.sink.config

    async def __call__(self, windows: pa.Table) -> pa.Table:
        return await fill_rows(windows, self._capture_row, CAPTURED)

    async def _capture_row(self, row: Row) -> None:
        """Complete a row in place: capture its window, or record the error. A row that has a status keeps it."""
        row.update(captions=0, captured_bytes=0, t_capture_s=0.0)
        if row.get("status") is None:
            with row_boundary(row):
                await self._store(row)

    async def _store(self, row: Row) -> None:
        if self._capture.is_full:
            row.update(status="skipped", reason="over_quota")
            return
        began = time.perf_counter()
        window = await asyncio.to_thread(self._window_of, row)
        modes = self._capture.modes(window.number)
        request = replace(window.request, max_new_tokens=self._config.max_new_tokens)
        completed = await completions(self._engine, request, modes)
        status, size = await self._capture.store(window.name, window.source_uri, modes, completed)
        row.update(
            status="success" if status == "stored" else "skipped",
            reason=None if status == "stored" else status,
            captions=len(modes) if size else 0,
            captured_bytes=size,
            t_capture_s=time.perf_counter() - began,
        )
