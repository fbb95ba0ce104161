"""Capture of a window's hidden states for distillation: recorded while the engine decodes, stored as one shard.

Owns which decode modes the engine is asked for and where shards go. The captioning graph captures beside captioning,
under a quota; the capture graphs of `pipeline.drafters` only capture.
"""

import asyncio
import math
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipeline.captioning.config import CaptionConfig
from pipeline.common.ids import settings_fingerprint
from pipeline.common.storage import Folder, absolute
from sparrow_core.config import CaptureConfig
from sparrow_core.distill.recorder import CaptionRecorder, bridge_layer, capture_samplings
from sparrow_core.distill.shards import (
    HEADER_BYTES,
    SHARD_PREFIX,
    TABLES_FILE,
    StoreHeader,
    refuse_other_target,
    shard_file,
    shard_name,
    tables_file,
)
from sparrow_core.distill.target_tables import target_tables
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.types import Completion

Stored = Literal["stored", "over_quota"]


@dataclass(frozen=True)
class CaptureSink:
    """What to keep of each window, and where.

    `folder` is a path or any fsspec URL. `settings` is a digest of all settings that shape a window's shard.
    `max_bytes` limits the shards in the folder (None: no limit); the remaining bytes are split evenly over `workers`.
    """

    config: CaptureConfig
    folder: str
    settings: str
    max_bytes: int | None = None
    workers: int = 1


def capture_sink(config: CaptionConfig, settings: dict[str, Any], folder: str, workers: int) -> CaptureSink:
    """The sink of `workers` caption workers. `settings` are those that shape captions."""
    capture = config.capture
    digest = settings_fingerprint({"captions": settings, "capture": asdict(capture.keep)})
    return CaptureSink(capture.keep, absolute(folder), digest, capture.max_bytes, workers)


class WindowCapture:
    """Makes decode modes that record hidden states, and stores what they recorded as shards."""

    def __init__(self, engine: Engine, sink: CaptureSink) -> None:
        """Open the sink. Raises CheckpointError if its folder holds captures of another target or bridge layer."""
        self._engine, self._sink = engine, sink
        info = engine.target.info
        self._layer = bridge_layer(info, sink.config)
        self._header = StoreHeader.of(engine.target, self._layer, sink.settings)
        self._folder = Folder(sink.folder)
        self._quota_lock = threading.Lock()
        self._quota_bytes = math.inf
        if sink.max_bytes is not None:  # measured at start, so that a restarted worker counts what it wrote before
            self._quota_bytes = max(0, sink.max_bytes - self._folder.num_bytes(SHARD_PREFIX)) // sink.workers
        self.is_full = False  # True once a shard has exceeded the quota
        tables = self._folder.read(TABLES_FILE, HEADER_BYTES)
        if tables is None:
            self._folder.write(TABLES_FILE, tables_file(target_tables(engine.target), self._header))
        else:
            refuse_other_target(tables, self._header, sink.folder)

    def recorder(self) -> CaptionRecorder:
        """A recorder of one completion's hidden states."""
        return CaptionRecorder(self._layer, self._sink.config)

    def modes(self, number: int) -> list[DecodeMode]:
        """Decode modes for the sampled captions of a window, each with a recorder. `number` seeds the sampling."""
        modes = [self._engine.default_mode(sampling) for sampling in capture_samplings(self._sink.config, number)]
        return [replace(mode, recording=self.recorder()) for mode in modes]

    async def store(
        self, window: str, source_uri: str | None, modes: Sequence[DecodeMode], written: Sequence[Completion]
    ) -> tuple[Stored, int]:
        """Write a window's shard from the recorders of these modes. Returns the outcome and the bytes written.

        Runs on another thread, so that a large shard or slow storage does not delay other windows.
        """
        return await asyncio.to_thread(self._store, window, source_uri, modes, written)

    def _store(
        self, window: str, source_uri: str | None, modes: Sequence[DecodeMode], written: Sequence[Completion]
    ) -> tuple[Stored, int]:
        recorders = [mode.recording for mode in modes if isinstance(mode.recording, CaptionRecorder)]
        captions = [recorder.caption(c.token_ids) for recorder, c in zip(recorders, written, strict=True)]
        content = shard_file(recorders[0].window(captions), replace(self._header, source_uri=source_uri))
        with self._quota_lock:
            if len(content) > self._quota_bytes:
                self.is_full = True
                return "over_quota", 0
            self._quota_bytes -= len(content)
        self._folder.write(shard_name(window), content)
        return "stored", len(content)
