"""Windows that a drafter may be measured on: of different videos, and none that it learns from."""

from pathlib import Path

import pytest

from jobs.distill_draft import refuse_shared
from pipeline.stored_windows import RowRequests, StoredWindow, one_of_each_video
from sparrow_core.config import DecodeConfig
from sparrow_core.distill.store import shard_name
from sparrow_core.errors import ConfigError
from sparrow_core.models.loading import read_frame_spec

TARGET = str(Path(__file__).parents[2] / "demo" / "weights" / "target")


@pytest.fixture
def heldout() -> list[StoredWindow]:
    source = RowRequests({"frames": {}, "max_new_tokens": 8}, read_frame_spec(TARGET), DecodeConfig())
    rows = [("a.mp4", "1"), ("b.mp4", "2"), ("a.mp4", "3")]
    return [StoredWindow(source, {"source_uri": video, "window_id": window}) for video, window in rows]


def test_windows_of_one_video_count_once(heldout: list[StoredWindow]) -> None:
    assert [window.row["window_id"] for window in one_of_each_video(heldout)] == ["1", "2"]


def test_what_was_captured_is_not_measured_on(heldout: list[StoredWindow], tmp_path: Path) -> None:
    (tmp_path / shard_name("7")).touch()
    refuse_shared(str(tmp_path), [], {64: heldout})
    (tmp_path / shard_name("2")).touch()
    with pytest.raises(ConfigError, match=r"1 of the 3 held-out windows are also learnt from, such as one of b\.mp4"):
        refuse_shared(str(tmp_path), [], {64: heldout})


def test_nor_is_a_video_of_the_online_run(heldout: list[StoredWindow]) -> None:
    refuse_shared(None, heldout[1:2], {64: heldout[:1]})
    with pytest.raises(ConfigError, match=r"2 of the 3 held-out windows are also learnt from, such as one of a\.mp4"):
        refuse_shared(None, heldout[:1], {64: heldout})
