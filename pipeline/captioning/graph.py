"""The captioning Dataset: each stage, how many rows it makes of one, its resources, and why.

Owns what Ray must be told, and nothing of what a stage does. Rows are keyed by window id throughout; order is free.
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
from pipeline.captioning.stages.caption import CaptionRun, CaptionWindows
from pipeline.captioning.stages.decode import DecodeWindows
from pipeline.captioning.stages.probe import ProbeVideos
from pipeline.captioning.stages.segment import make_segmenter
from pipeline.captioning.stages.write import make_writer
from pipeline.common.ids import video_id, window_id
from pipeline.common.resources import ResourcePlan
from sparrow_core.media.frame_spec import FrameSpec

# A worker that dies takes its windows along: try them again, but not for ever, and then go on without them.
_MAX_TASK_RETRIES = 2
_MOST_LOST_SHARE = 0.01
_MOST_LOST_OF_A_SMALL_RUN = 8
# One window may take long, and spot capacity may be away for hours.
_NO_PROGRESS_TIMEOUT_S = 4 * 3600
_MOST_INPUT_BLOCKS = 4096


@dataclass(frozen=True)
class Output:
    """Where a run writes its parts, under which number."""

    folder_url: str
    run: int


def caption_graph(
    sources: Sequence[str],
    done_windows: frozenset[str],
    run: CaptionRun,
    plan: ResourcePlan,
    patches: FrameSpec,
    output: Output,
) -> Dataset:
    """A lazy Dataset of PART rows: iterating over it captions the sources and stores the table part by part."""
    config = run.config
    name_window = partial(name_of_window, prompt=config.prompt, settings=run.settings_fingerprint)
    segmenter = make_segmenter(config.segment, name_window, done_windows)
    return (
        decoded_windows(sources, config, segmenter, plan, patches)
        # 1 window -> 1 row of the table. One engine per worker; several calls in flight keep it fed.
        .map_batches(CaptionWindows, fn_constructor_args=(run,), **engine_pool(config, plan))
        # n rows -> 1 part. A batch is what a crash can lose beyond the windows in flight.
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
    patches: FrameSpec,
) -> Dataset:
    """A lazy Dataset of FRAMES rows: the windows of the sources, decoded."""
    return (
        ray.data.from_items(
            [{"source_uri": source, "video_id": video_id(source)} for source in sources],
            override_num_blocks=min(len(sources), _MOST_INPUT_BLOCKS),
        )
        # 1 video -> 1 video. Workers, not tasks: each keeps a decoding child process. It reads headers only.
        .map_batches(
            ProbeVideos,
            fn_constructor_args=(config.decode,),
            compute=ActorPoolStrategy(size=1),
            num_cpus=plan.task_cpus,
            batch_size=1,
            batch_format="pyarrow",
            **finite_retries(),
        )
        # 1 video -> its missing windows, 0..n. Arithmetic.
        .map_batches(
            segmenter,
            num_cpus=plan.task_cpus,
            batch_size=1,
            batch_format="pyarrow",
        )
        # 1 window -> 1 window with its pixels, tens of MB. CPU; runs ahead of the engines as far as memory allows.
        .map_batches(
            DecodeWindows,
            fn_constructor_args=(config.decode, config.frames, patches),
            compute=ActorPoolStrategy(size=plan.decode_workers),
            num_cpus=plan.decode_cpus,
            batch_size=1,
            batch_format="pyarrow",
            **finite_retries(),
        )
    )


def engine_pool(config: CaptionConfig, plan: ResourcePlan) -> dict[str, Any]:
    """Options of a stage whose workers each host an engine."""
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
    """Settings of Ray Data for graphs over so many videos, for as long as the context lasts."""
    settings = {
        # One row per block, everywhere: a window is the unit of scheduling, of retry, and of what a worker holds in
        # memory. (A repartition would do it between two stages, but it asks for a whole CPU, which a small machine has
        # not left.)
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
    """Windows per part: few enough to see results soon, many enough for a table of reasonably few files."""
    return max(1, min(64, num_videos // 32))


def name_of_window(source_uri: str, span: tuple[float, float] | None, *, prompt: str, settings: str) -> str:
    """`window_id`, to be bound to a prompt and settings."""
    return window_id(source_uri, span, prompt, settings)


def finite_retries() -> dict[str, Any]:
    """Actor options without a named parameter yet: `cluster.connected` hides Ray's warning of it.

    Ray's own default is to retry a deadly window for ever.
    """
    return {"max_restarts": -1, "max_task_retries": _MAX_TASK_RETRIES}
