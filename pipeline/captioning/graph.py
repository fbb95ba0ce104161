"""The captioning Dataset on Ray Data, where a stage is added: order, rows out per row in, resources, retries.

Owns the options that Ray needs, and nothing of what a stage does. Rows are keyed by window id; their order is free.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.stages.caption import CaptionWindows, CaptionWorkerConfig
from pipeline.captioning.stages.decode import DecodeWindows
from pipeline.captioning.stages.probe import ProbeVideos
from pipeline.captioning.stages.segment import make_segmenter
from pipeline.captioning.stages.write import make_writer
from pipeline.common.ids import video_id, window_id
from pipeline.common.resources import ResourcePlan
from sparrow_core.media.frame_spec import FrameSpec

# A worker that dies loses its windows: retry them a few times, then continue without them.
_MAX_TASK_RETRIES = 2
_MOST_LOST_SHARE = 0.01
_MOST_LOST_OF_A_SMALL_RUN = 8
# A single window may take long, and spot capacity may be away for hours.
_NO_PROGRESS_TIMEOUT_S = 4 * 3600
_MOST_INPUT_BLOCKS = 4096


@dataclass(frozen=True)
class Output:
    """The folder that a run writes its parts to, and the run's number."""

    folder_url: str
    run: int


def caption_graph(
    sources: Sequence[str],
    done_windows: frozenset[str],
    worker: CaptionWorkerConfig,
    plan: ResourcePlan,
    frame_spec: FrameSpec,
    output: Output,
) -> Dataset:
    """A lazy Dataset of PART rows. Iterating over it captions the missing windows and stores them part by part."""
    config = worker.config
    name_window = partial(window_id, prompt=config.prompt, settings=worker.settings_fingerprint)
    segmenter = make_segmenter(config.segment, name_window, done_windows)
    return (
        decoded_windows(sources, config, segmenter, plan, frame_spec)
        # 1 window -> 1 row of the table. One engine per worker; several calls in flight keep it busy.
        .map_batches(CaptionWindows, fn_constructor_args=(worker,), **engine_pool(config, plan))
        # n rows -> 1 part. A crash can lose one batch beside the windows in flight.
        .map_batches(
            make_writer(output.folder_url, output.run),
            num_cpus=plan.task_cpus,
            batch_size=config.windows_per_part or _part_size(len(sources)),
            batch_format="pyarrow",
        )
    )


def decoded_windows(
    sources: Sequence[str],
    config: CaptionConfig,
    segmenter: Callable[[pa.Table], pa.Table],
    plan: ResourcePlan,
    frame_spec: FrameSpec,
) -> Dataset:
    """A lazy Dataset of FRAMES rows: the sources' windows with their decoded frames."""
    return (
        ray.data.from_items(
            [{"source_uri": source, "video_id": video_id(source)} for source in sources],
            override_num_blocks=min(len(sources), _MOST_INPUT_BLOCKS),
        )
        # 1 video -> 1 video. An actor, because it keeps a decoding child process. Reads headers only.
        .map_batches(
            ProbeVideos,
            fn_constructor_args=(config.decode,),
            compute=ActorPoolStrategy(size=1),
            num_cpus=plan.task_cpus,
            batch_size=1,
            batch_format="pyarrow",
            **finite_retries(),
        )
        # 1 video -> its 0..n missing windows. Arithmetic only.
        .map_batches(
            segmenter,
            num_cpus=plan.task_cpus,
            batch_size=1,
            batch_format="pyarrow",
        )
        # 1 window -> 1 window with its pixels, tens of MB. Uses CPUs; runs ahead of the engines as memory allows.
        .map_batches(
            DecodeWindows,
            fn_constructor_args=(config.decode, config.frames, frame_spec),
            compute=ActorPoolStrategy(size=plan.decode_workers),
            num_cpus=plan.decode_cpus,
            batch_size=1,
            batch_format="pyarrow",
            **finite_retries(),
        )
    )


def engine_pool(config: CaptionConfig, plan: ResourcePlan) -> dict[str, Any]:
    """Options of a stage in which each worker hosts an engine."""
    return {
        "compute": ActorPoolStrategy(
            size=plan.caption_workers,
            max_concurrent_calls_per_actor=config.resources.windows_in_flight,
            max_tasks_in_flight_per_actor=2 * config.resources.windows_in_flight,
        ),
        "num_cpus": plan.caption_cpus,
        "num_gpus": plan.caption_gpus,
        "batch_size": 1,
        "batch_format": "pyarrow",
        **finite_retries(),
    }


@contextmanager
def data_context(num_videos: int) -> Iterator[None]:
    """Apply Ray Data's settings for a graph over `num_videos` videos, and restore the earlier ones afterwards."""
    settings = {
        # One row per block: a window is the unit of scheduling, of retries, and of a worker's memory. A repartition
        # between two stages would do the same, but it needs a whole CPU, which a small machine cannot spare.
        "target_max_block_size": 1,
        "max_errored_blocks": max(_MOST_LOST_OF_A_SMALL_RUN, int(num_videos * _MOST_LOST_SHARE)),
        "execution_no_progress_timeout_s": _NO_PROGRESS_TIMEOUT_S,
        "enable_progress_bars": False,  # the run shows windows and tokens/s instead
    }
    context = DataContext.get_current()
    before = {name: getattr(context, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _part_size(num_videos: int) -> int:
    """Default number of windows per part: small for early results, up to 64 to limit the table's number of files."""
    return max(1, min(64, num_videos // 32))


def finite_retries() -> dict[str, Any]:
    """Actor options that bound retries: by default, Ray retries a window that kills its worker for ever.

    Ray Data has no named parameters for them and warns of deprecation, which `cluster.connected` silences.
    """
    return {"max_restarts": -1, "max_task_retries": _MAX_TASK_RETRIES}
