"""Stage 2: cut a video into windows and give them ids. Pure arithmetic; opens no file."""

from collections.abc import Callable

import pyarrow as pa

from pipeline.captioning.config import SegmentConfig
from pipeline.captioning.stages.boundary import for_each_row
from pipeline.common.ids import Span
from pipeline.common.rows import WINDOW, Row, to_table

# Source URI and span in seconds (None: the whole video) -> window id.
NameWindow = Callable[[str, Span | None], str]


def spans(duration_s: float, config: SegmentConfig) -> list[Span]:
    """Consecutive spans in seconds that together cover the whole video."""
    if config.window_s is None or duration_s <= config.window_s:
        return [(0.0, duration_s)]
    starts = [index * config.window_s for index in range(int(duration_s // config.window_s) + 1)]
    if duration_s - starts[-1] < max(config.min_remainder_s, 1e-3):
        starts.pop()
    return list(zip(starts, [*starts[1:], duration_s], strict=True))


def segment_video(
    row: Row, config: SegmentConfig, name_window: NameWindow, done: frozenset[str], marks_done: bool
) -> list[Row]:
    """The windows of a probed video with their index and count. Done windows are left out, or marked as skipped."""
    cut = spans(row["duration_s"], config)
    windows = [
        row
        | {
            "window_id": name_window(row["source_uri"], None if config.window_s is None else span),
            "window_index": index,
            "num_windows": len(cut),
            "start_s": span[0],
            "end_s": span[1],
        }
        for index, span in enumerate(cut)
    ]
    if marks_done:
        return [w | {"status": "skipped", "reason": "done before"} if w["window_id"] in done else w for w in windows]
    return [window for window in windows if window["window_id"] not in done]


def make_segmenter(
    config: SegmentConfig, name_window: NameWindow, done: frozenset[str], *, marks_done: bool = False
) -> Callable[[pa.Table], pa.Table]:
    """A function from PROBED rows to WINDOW rows. A video that failed before keeps one row, with the whole video's id.

    Done windows are left out or, with `marks_done`, passed on with status "skipped".
    """

    def segment_videos(videos: pa.Table) -> pa.Table:
        windows = for_each_row(videos, lambda row: segment_video(row, config, name_window, done, marks_done), WINDOW)
        rows = windows.to_pylist()
        for row in rows:
            if row["window_id"] is None:
                row["window_id"] = name_window(row["source_uri"], None)
        return to_table(rows, WINDOW)

    return segment_videos
