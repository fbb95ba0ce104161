"""Held-out windows: one of each video, and none from a video that the drafter is trained on."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.captioning.stored_windows import RowRequests, StoredWindow, one_of_each_video
from pipeline.drafters.heldout import refuse_leakage
from sparrow_core.config import DecodeConfig
from sparrow_core.distill.shards import TABLES_FILE, shard_file, shard_name, tables_file
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import read_frame_spec
from tests.sparrow_core.distill.toys import HEADER, captured_window, random_tables

TARGET = str(Path(__file__).parents[3] / "demo" / "weights" / "target")


@pytest.fixture
def heldout() -> list[StoredWindow]:
    source = RowRequests({"frames": {}, "max_new_tokens": 8}, read_frame_spec(TARGET), DecodeConfig())
    rows = [("a.mp4", "1"), ("b.mp4", "2"), ("a.mp4", "3")]
    return [StoredWindow(source, {"source_uri": video, "window_id": window}) for video, window in rows]


def test_windows_of_one_video_count_once(heldout: list[StoredWindow]) -> None:
    assert [window.row["window_id"] for window in one_of_each_video(heldout)] == ["1", "2"]


def test_what_was_captured_is_not_measured_on(heldout: list[StoredWindow], tmp_path: Path) -> None:
    window, header = captured_window(1, 4, [6]), HEADER
    (tmp_path / TABLES_FILE).write_bytes(tables_file(random_tables(), header))
    for name, video in (("7", None), ("8", "c.mp4")):
        (tmp_path / shard_name(name)).write_bytes(shard_file(window, replace(header, source_uri=video)))
    refuse_leakage(str(tmp_path), [], {64: heldout})
    (tmp_path / shard_name("9")).write_bytes(shard_file(window, replace(header, source_uri="b.mp4")))
    with pytest.raises(ConfigError, match=r"1 of the 3 held-out windows are of videos that are .* such as b\.mp4"):
        refuse_leakage(str(tmp_path), [], {64: heldout})


def test_nor_is_a_video_of_the_online_run(heldout: list[StoredWindow]) -> None:
    refuse_leakage(None, heldout[1:2], {64: heldout[:1]})
    with pytest.raises(ConfigError, match=r"2 of the 3 held-out windows .* such as a\.mp4"):
        refuse_leakage(None, heldout[:1], {64: heldout})
