"""The capture Datasets: windows in, state shards out, and one CAPTURED row for every window.

    archive -> probe -> segment -> decode -> CaptureWindows     (files, as in captioning)
    window numbers                        -> CaptureWindows     (windows that a function makes)

A shard follows from its window and the settings alone, so an interrupted capture continues with what is missing.
"""

from collections.abc import Callable, Sequence
from functools import partial

import ray
from ray.data import ActorPoolStrategy, Dataset

from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.graph import decoded_windows, engine_pool, finite_retries
from pipeline.captioning.stages.decode import frames_of
from pipeline.captioning.stages.segment import make_segmenter
from pipeline.common.ids import window_id, window_number
from pipeline.common.resources import ResourcePlan
from pipeline.common.rows import Row
from pipeline.drafters.capture_stage import CaptureWindows, CaptureWorkerConfig, NamedWindow
from pipeline.drafters.config import DistillWorkers
from sparrow_core.media.frame_spec import FrameSpec
from sparrow_core.types import Message, Request

RequestSource = Callable[[int], Request]
"""Window number -> request; the same number always gives the same window."""


def capture_archive(
    sources: Sequence[str],
    done_windows: frozenset[str],
    config: CaptionConfig,
    worker: CaptureWorkerConfig,
    plan: ResourcePlan,
    frame_spec: FrameSpec,
) -> Dataset:
    """CAPTURED rows of all windows of video files; done ones are skipped."""
    name_window = partial(window_id, prompt=config.prompt, settings=worker.sink.settings)
    segmenter = make_segmenter(config.segment, name_window, done_windows, marks_done=True)
    return decoded_windows(sources, config, segmenter, plan, frame_spec).map_batches(
        CaptureWindows,  # type: ignore[arg-type]
        fn_constructor_args=(worker, partial(_window_of_frames, prompt=config.prompt)),
        **engine_pool(config, plan),
    )


def capture_requests(
    requests: RequestSource, numbers: Sequence[int], worker: CaptureWorkerConfig, workers: DistillWorkers
) -> Dataset:
    """CAPTURED rows of the windows of these numbers."""
    items = [{"window_id": numbered_window(number), "number": number} for number in numbers]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        CaptureWindows,  # type: ignore[arg-type]
        fn_constructor_args=(worker, partial(_window_of_number, requests=requests)),
        compute=ActorPoolStrategy(size=min(workers.capture, len(items)), max_concurrent_calls_per_actor=2),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        batch_size=1,
        batch_format="pyarrow",
        **finite_retries(),
    )


def numbered_window(number: int) -> str:
    """Name of the window of a number, in the order of numbers."""
    return f"{number:08d}"


def _window_of_frames(row: Row, prompt: str) -> NamedWindow:
    messages = (Message("user", (frames_of(row), prompt)),)
    window = row["window_id"]
    return NamedWindow(window, window_number(window), Request(messages), row["source_uri"])


def _window_of_number(row: Row, requests: RequestSource) -> NamedWindow:
    return NamedWindow(row["window_id"], row["number"], requests(row["number"]))
