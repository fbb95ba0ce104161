"""The options that the captioning graph passes to Ray Data, recorded instead of run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.data import ActorPoolStrategy, DataContext

from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.graph import Output, caption_graph, data_context
from pipeline.captioning.stages.caption import CaptionWindows, CaptionWorkerConfig
from pipeline.captioning.stages.decode import DecodeWindows
from pipeline.captioning.stages.probe import ProbeVideos
from pipeline.common.ids import video_id
from pipeline.common.resources import ResourcesConfig, plan_resources
from sparrow_core.media.patches import PatchSpec

SOURCES = [f"/videos/{index}.mp4" for index in range(5)]


class RecordingDataset:
    """A fake Dataset that records each stage with its options."""

    def __init__(self) -> None:
        self.stages: list[dict[str, Any]] = []

    def map_batches(self, stage: Any, **options: Any) -> "RecordingDataset":
        self.stages.append({"stage": stage, **options})
        return self


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The five stages of a run on two CPUs."""
    dataset = RecordingDataset()

    def from_items(items: list[dict[str, str]], override_num_blocks: int) -> RecordingDataset:
        assert items == [{"source_uri": source, "video_id": video_id(source)} for source in SOURCES]
        assert override_num_blocks == len(SOURCES)
        return dataset

    monkeypatch.setattr(ray.data, "from_items", from_items)
    config = CaptionConfig(target="t", resources=ResourcesConfig(windows_in_flight=6))
    plan = plan_resources(config.resources, device="cpu", num_cpus=2, num_gpus=0)
    caption_graph(
        SOURCES, frozenset(), CaptionWorkerConfig(config, "s", None, plan.threads), plan, PatchSpec(), Output("/o", 1)
    )
    return dataset.stages


def test_stages_stand_in_order(stages: list[dict[str, Any]]) -> None:
    names = [getattr(stage["stage"], "__name__", "") for stage in stages]
    assert names == ["ProbeVideos", "segment_videos", "DecodeWindows", "CaptionWindows", "write_part"]
    assert [stages[i]["stage"] for i in (0, 2, 3)] == [ProbeVideos, DecodeWindows, CaptionWindows]


def test_all_stages_can_run_at_once_on_two_cpus(stages: list[dict[str, Any]]) -> None:
    """Workers hold their grants for the whole run, so a stage that does not fit beside them would block it for ever."""
    pool_sizes = [stage["compute"].max_size if "compute" in stage else 1 for stage in stages]
    assert sum(size * stage["num_cpus"] for size, stage in zip(pool_sizes, stages, strict=True)) <= 2


def test_workers_are_retried_but_not_for_ever(stages: list[dict[str, Any]]) -> None:
    pools = [stage for stage in stages if isinstance(stage.get("compute"), ActorPoolStrategy)]
    assert len(pools) == 3
    assert all(pool["max_restarts"] == -1 and 0 < pool["max_task_retries"] < 10 for pool in pools)


def test_engines_get_several_windows_and_parts_their_size(stages: list[dict[str, Any]]) -> None:
    caption, write = stages[3], stages[4]
    assert caption["compute"].max_concurrent_calls_per_actor == 6
    assert caption["compute"].max_tasks_in_flight_per_actor > 6  # else the next window would wait for a free slot
    assert caption["batch_size"] == 1
    assert write["batch_size"] == 1  # a small run shows its captions one by one


def test_light_stages_start_without_torch(stages: list[dict[str, Any]], tmp_path: Path) -> None:
    """Ray starts a process for each: what they are unpickled from must not bring in the models' libraries."""
    light = [(stage["stage"], stage.get("fn_constructor_args")) for stage in (*stages[:3], stages[4])]
    (tmp_path / "stages").write_bytes(cloudpickle.dumps(light))
    load = f"import pickle, sys; sys.modules['torch'] = None; pickle.load(open({str(tmp_path / 'stages')!r}, 'rb'))"
    outcome = subprocess.run(
        [sys.executable, "-c", load], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize(("num_videos", "most_lost"), [(5, 8), (100_000, 1000)])
def test_few_lost_windows_do_not_end_a_run(monkeypatch: pytest.MonkeyPatch, num_videos: int, most_lost: int) -> None:
    context = DataContext()
    monkeypatch.setattr(DataContext, "get_current", lambda: context)
    before = (context.max_errored_blocks, context.target_max_block_size)
    with data_context(num_videos):
        assert context.max_errored_blocks == most_lost
        assert context.target_max_block_size == 1  # one row per block
    assert (context.max_errored_blocks, context.target_max_block_size) == before
