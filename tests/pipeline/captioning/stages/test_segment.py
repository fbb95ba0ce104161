"""Windows of a video: they cover it exactly once, and carry their index and span."""

from functools import partial
from itertools import pairwise

import pytest

from pipeline.captioning.config import SegmentConfig
from pipeline.captioning.stages.segment import make_segmenter, spans
from pipeline.common.rows import PROBED, WINDOW, to_table


def name(uri: str, span: tuple[float, float] | None) -> str:
    return f"{uri}:{span}"


@pytest.mark.parametrize("duration_s", [0.04, 1.0, 9.99, 10.0, 10.5, 11.0, 20.0, 21.5, 25.0, 1234.567])
@pytest.mark.parametrize("config", [SegmentConfig(), SegmentConfig(10.0), SegmentConfig(10.0, 0.0), SegmentConfig(0.3)])
def test_spans_cover_the_video_once(duration_s: float, config: SegmentConfig) -> None:
    cut = spans(duration_s, config)
    assert cut[0][0] == 0.0 and cut[-1][1] == duration_s
    assert all(end == next_start for (_, end), (next_start, _) in pairwise(cut))
    assert all(start < end for start, end in cut)


def test_short_remainder_joins_the_window_before_it() -> None:
    config = SegmentConfig(window_s=10.0, min_remainder_s=2.0)
    assert spans(21.9, config) == [(0.0, 10.0), (10.0, 21.9)]
    assert spans(22.0, config) == [(0.0, 10.0), (10.0, 20.0), (20.0, 22.0)]
    assert spans(1.0, config) == [(0.0, 1.0)]


def test_windows_carry_their_place_and_global_seconds() -> None:
    video = {"source_uri": "v", "video_id": "id", "duration_s": 25.0, "codec": "h264"}
    segment = make_segmenter(SegmentConfig(10.0), name, frozenset())
    windows = segment(to_table([video], PROBED))
    assert windows.schema == WINDOW
    assert [(w["window_index"], w["num_windows"], w["start_s"], w["end_s"]) for w in windows.to_pylist()] == [
        (0, 3, 0.0, 10.0),
        (1, 3, 10.0, 20.0),
        (2, 3, 20.0, 25.0),
    ]
    assert windows["codec"].to_pylist() == ["h264"] * 3


def test_done_windows_are_left_out() -> None:
    video = to_table([{"source_uri": "v", "video_id": "id", "duration_s": 20.0}], PROBED)
    segment = partial(make_segmenter, SegmentConfig(10.0), name)
    assert segment(frozenset({"v:(0.0, 10.0)"}))(video)["window_id"].to_pylist() == ["v:(10.0, 20.0)"]
    assert segment(frozenset({"v:(0.0, 10.0)", "v:(10.0, 20.0)"}))(video).num_rows == 0


def test_what_is_left_keeps_its_place_among_all() -> None:
    video = to_table([{"source_uri": "v", "video_id": "id", "duration_s": 40.0}], PROBED)
    done = frozenset({"v:(0.0, 10.0)", "v:(20.0, 30.0)"})
    left = make_segmenter(SegmentConfig(10.0), name, done)(video).to_pylist()
    assert [(w["window_index"], w["num_windows"], w["start_s"]) for w in left] == [(1, 4, 10.0), (3, 4, 30.0)]


def test_whole_video_is_named_without_its_duration() -> None:
    for duration_s in (5.0, 6.0):
        video = to_table([{"source_uri": "v", "video_id": "id", "duration_s": duration_s}], PROBED)
        assert make_segmenter(SegmentConfig(), name, frozenset())(video)["window_id"].to_pylist() == ["v:None"]


def test_failed_video_passes_as_one_row_without_windows() -> None:
    video = {"source_uri": "v", "video_id": "id", "status": "error", "reason": "unreadable", "error": "no"}
    (row,) = make_segmenter(SegmentConfig(10.0), name, frozenset())(to_table([video], PROBED)).to_pylist()
    assert (row["window_id"], row["window_index"], row["reason"]) == ("v:None", None, "unreadable")
