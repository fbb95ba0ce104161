"""States of a window for distillation: captions of the target's own, taken down as the engine writes them, as a shard.

Owns what is asked of the engine for that and where shards go. `caption_graph` does it beside captioning, under a quota;
`capture_graph` does nothing else.
"""

import asyncio
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.common.storage import Folder
from sparrow_core.config import CaptureConfig
from sparrow_core.distill.recorder import CaptionRecorder, bridge_layer, capture_samplings
from sparrow_core.distill.store import (
    HEADER_BYTES,
    SHARD_PREFIX,
    TABLES_FILE,
    StoreHeader,
    refuse_other_target,
    shard_file,
    shard_name,
    tables_file,
    target_tables,
)
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.types import Completion

Stored = Literal["stored", "over_quota"]


@dataclass(frozen=True)
class CaptureSink:
    """What is kept of windows, where (any fsspec URL), a digest of the settings that decide what a window is, and how
    many bytes the folder may hold (None: any number), of whose room each of `workers` fills its share."""

    config: CaptureConfig
    folder: str
    settings: str
    max_bytes: int | None = None
    workers: int = 1


class WindowCapture:
    """Arms for an engine, and their outcome as a shard."""

    def __init__(self, engine: Engine, sink: CaptureSink) -> None:
        self._engine, self._sink = engine, sink
        info = engine.target.info
        self._layer = bridge_layer(info, sink.config)
        self._header = StoreHeader.of(engine.target, self._layer, sink.settings)
        self._folder = Folder(sink.folder)
        self._quota = threading.Lock()
        self._room = math.inf
        if sink.max_bytes is not None:  # measured here, so that a worker that is started again counts what it wrote
            self._room = max(0, sink.max_bytes - self._folder.num_bytes(SHARD_PREFIX)) // sink.workers
        self.is_full = False  # once a window has found no room
        tables = self._folder.read(TABLES_FILE, HEADER_BYTES)
        if tables is None:
            self._folder.write(TABLES_FILE, tables_file(target_tables(engine.target), self._header))
        else:
            refuse_other_target(tables, self._header, sink.folder)

    def recorder(self) -> CaptionRecorder:
        """For one completion."""
        return CaptionRecorder(self._layer, self._sink.config)

    def modes(self, number: int) -> list[DecodeMode]:
        """Sampled captions of the window with this number, each with a recorder."""
        modes = [self._engine.default_mode(sampling) for sampling in capture_samplings(self._sink.config, number)]
        return [replace(mode, recording=self.recorder()) for mode in modes]

    async def store(
        self, window: str, source_uri: str | None, modes: Sequence[DecodeMode], written: Sequence[Completion]
    ) -> tuple[Stored, int]:
        """Write what the recorders of these modes took down of a window -> whether that was done, and bytes.

        On a thread of its own: a large shard, or a slow storage, keeps no other window waiting.
        """
        return await asyncio.to_thread(self._store, window, source_uri, modes, written)

    def _store(
        self, window: str, source_uri: str | None, modes: Sequence[DecodeMode], written: Sequence[Completion]
    ) -> tuple[Stored, int]:
        recorders = [mode.recording for mode in modes if isinstance(mode.recording, CaptionRecorder)]
        captions = [recorder.caption(c.token_ids) for recorder, c in zip(recorders, written, strict=True)]
        content = shard_file(recorders[0].window(captions), replace(self._header, source_uri=source_uri))
        with self._quota:
            if len(content) > self._room:
                self.is_full = True
                return "over_quota", 0
            self._room -= len(content)
        self._folder.write(shard_name(window), content)
        return "stored", len(content)
