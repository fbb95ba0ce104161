"""Runs a capture of hidden states and counts its windows by outcome: success + error + skipped = input."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.graph import data_context
from pipeline.captioning.run import caption_settings, decide_device
from pipeline.captioning.stages.capture import CaptureSink, capture_sink
from pipeline.common.checkpoints import worker_draft, worker_path
from pipeline.common.cluster import connected, errors_of_worker_start
from pipeline.common.memory import device_memory_bytes, memory_need, refuse_too_little_memory
from pipeline.common.rows import Row
from pipeline.common.storage import Folder, absolute
from pipeline.common.worker_engine import WorkerModels
from pipeline.drafters.capture_graph import RequestSource, capture_archive, capture_requests, numbered_window_id
from pipeline.drafters.capture_stage import CaptureWorkerConfig
from pipeline.drafters.config import DistillRunConfig
from sparrow_core.config import EngineConfig
from sparrow_core.distill.shards import shard_name, window_of_shard
from sparrow_core.errors import CheckpointError
from sparrow_core.targets.loading import read_frame_spec

_STATUSES = {"success": "captured", "error": "errors", "skipped": "skipped"}


@dataclass(frozen=True)
class CaptureSummary:
    """Counts of windows by status, of captions and bytes stored, and the errors.

    `lost` lists videos of which rows are missing because their worker died; another run tries them again.
    """

    windows: Counter[str] = field(default_factory=Counter)
    captions: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    errors: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Number of input windows."""
        return self.windows.total()

    def __str__(self) -> str:
        kinds = ", ".join(f"{self.windows[status]} {word}" for status, word in _STATUSES.items())
        return f"{self.total} windows = {kinds}; {self.captions} captions, {self.num_bytes / 2**20:.1f} MiB"

    def with_row(self, row: Row) -> "CaptureSummary":
        """The summary with one more CAPTURED row counted."""
        errors = self.errors
        if row["status"] == "error":
            errors = (*errors, f"{row['source_uri'] or row['window_id']}: {row['reason']}: {row['error']}")
        return replace(
            self,
            windows=self.windows + Counter([row["status"]]),
            captions=self.captions + row["captions"],
            num_bytes=self.num_bytes + row["captured_bytes"],
            errors=errors,
        )


OnWindow = Callable[[CaptureSummary], None]
"""Called after every window with the summary so far."""


def capture_videos(
    config: CaptionConfig, sources: Sequence[str], folder: str, on_window: OnWindow = lambda summary: None
) -> CaptureSummary:
    """Capture those windows of the video files that `folder` does not hold yet. `config.capture.share` is ignored."""
    config = replace(config, target=worker_path(config.target), draft=worker_draft(config.draft))
    settings = caption_settings(config)
    with connected() as cluster:
        config, plan = decide_device(config, cluster)
        refuse_too_little_memory(memory_need(config), device_memory_bytes(config, cluster), config)
        sink = capture_sink(config, settings, folder, plan.caption_workers)
        worker = CaptureWorkerConfig(_models(config, config.engine), sink, plan.threads)
        with data_context(len(sources)), errors_of_worker_start():
            graph = capture_archive(
                sources, captured_windows(folder), config, worker, plan, read_frame_spec(config.target)
            )
            rows, summary = _summarise(graph.iter_rows(), on_window)
    rows_by_video = Counter(row["source_uri"] for row in rows)
    expected = dict.fromkeys(sources, 1) | {row["source_uri"]: row["num_windows"] or 1 for row in rows}
    return replace(summary, lost=tuple(source for source in sources if rows_by_video[source] < expected[source]))


def capture_numbered(config: DistillRunConfig, requests: RequestSource, folder: str, settings: str) -> None:
    """Capture those of the windows 0 to `config.num_windows` - 1 that `folder` does not hold yet.

    Ray must be connected. Raises CheckpointError if a window is still missing afterwards, because the training data
    must not depend on which worker died.
    """
    done = captured_windows(folder)
    names = {number: numbered_window_id(number) for number in range(config.num_windows)}
    missing = [number for number, name in names.items() if name not in done]
    if not missing:
        return
    sink = CaptureSink(config.capture, absolute(folder), settings)
    worker = CaptureWorkerConfig(_models(config, EngineConfig()), sink, config.workers.threads)
    with data_context(len(missing)), errors_of_worker_start():
        rows, summary = _summarise(capture_requests(requests, missing, worker, config.workers).iter_rows())
    reported = {row["window_id"] for row in rows}
    lost = [names[number] for number in missing if names[number] not in reported]
    if lost or summary.errors:
        skipped = Counter(skipped=config.num_windows - len(missing))
        summary = replace(summary, windows=summary.windows + skipped)
        raise CheckpointError(
            f"{len(lost) + len(summary.errors)} windows were not captured ({summary}): "
            f"{'; '.join([*summary.errors, *lost][:3])}; run again"
        )


def numbered_shards(num_windows: int) -> list[str]:
    """Names of the shards of windows 0 to `num_windows` - 1."""
    return [shard_name(numbered_window_id(number)) for number in range(num_windows)]


def captured_windows(folder: str) -> frozenset[str]:
    """Ids of the windows whose shards a folder holds."""
    return frozenset(name for file in Folder(folder).names() if (name := window_of_shard(file)))


def _summarise(stream: Iterable[Row], on_window: OnWindow = lambda summary: None) -> tuple[list[Row], CaptureSummary]:
    """Consume a stream of CAPTURED rows -> all rows and their summary."""
    summary, rows, began = CaptureSummary(), [], time.monotonic()
    for row in stream:
        rows.append(row)
        summary = replace(summary.with_row(row), seconds=time.monotonic() - began)
        on_window(summary)
    return rows, summary


def _models(config: Any, engine: EngineConfig) -> WorkerModels:
    return WorkerModels(config.target, config.draft, config.device, config.dtype, engine)
