"""Figures of a caption table, against sums done by hand."""

from pathlib import Path

import pytest

from pipeline.captioning.ledger import Ledger
from pipeline.captioning.report import RunFigures, table_figures
from pipeline.captioning.stages.write import make_writer
from pipeline.common.rows import CAPTION, Row, to_table
from pipeline.common.storage import Folder


def caption(window: str, **figures: object) -> Row:
    return {"window_id": window, "video_id": window, "status": "success", "audit": "none", **figures}


def figures_of(folder: Path, rows: list[Row]) -> dict:
    if rows:
        make_writer(str(folder), 1)(to_table(rows, CAPTION))
    return table_figures(Ledger(Folder(str(folder)), {}))


def test_sums_over_the_table(tmp_path: Path) -> None:
    figures = figures_of(
        tmp_path,
        [
            caption(
                "a",
                output_tokens=11,
                rounds=2,
                tau=5.0,
                accept_hist=[0, 0, 0, 0, 2],
                audit="equal",
                t_vision_s=1.5,
                batch_deviation=0.0,
                in_doubt_tokens=0,
            ),
            caption("b", output_tokens=4, rounds=3, tau=1.0, accept_hist=[3], audit="diverged", start_s=1.0, end_s=3.5),
            caption(
                "c",
                output_tokens=1,
                rounds=0,
                tau=None,
                accept_hist=[],
                device="cpu",
                dtype="float32",
                batch_deviation=0.25,
                in_doubt_tokens=3,
            ),
            {"window_id": "d", "video_id": "d", "status": "error", "reason": "timeout", "audit": "none"},
            {"window_id": "e", "video_id": "e", "status": "error", "reason": "timeout", "audit": "none"},
        ],
    )
    assert figures["windows"] == {"total": 5, "success": 3, "error": 2}
    assert figures["errors"] == {"timeout": 2}
    assert figures["tokens"] == 16
    assert figures["tau"] == pytest.approx((10 + 3) / 5)  # over all rounds, not the mean over windows
    assert figures["accept_hist"] == [3, 0, 0, 0, 2]
    assert (figures["batch_deviation"], figures["in_doubt_tokens"]) == (0.25, 3)
    assert figures["audit"] == {"checked": 2, "equal": 1}
    assert figures["stage_s"]["vision"] == 1.5
    assert figures["video_s"] == 2.5
    assert (figures["device"], figures["dtype"]) == (["cpu"], ["float32"])


def test_stages_are_summed_each_by_itself(tmp_path: Path) -> None:
    columns = ("t_decode_s", "t_vision_s", "t_prefill_s", "t_drafter_prefill_s", "t_draft_s", "t_verify_s")
    rows = [
        caption(window, **{column: first + index for index, column in enumerate(columns)}, t_decode_tokens_s=50.0)
        for window, first in (("a", 1.0), ("b", 10.0))
    ]
    assert figures_of(tmp_path, rows)["stage_s"] == {
        "media_decode": 11.0,
        "vision": 13.0,
        "prefill": 15.0,
        "drafter_prefill": 17.0,
        "draft": 19.0,
        "verify": 21.0,
        "decode_tokens": 100.0,
    }


def test_empty_table_has_figures_too(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, [])
    assert figures["windows"] == {"total": 0, "success": 0, "error": 0}
    assert figures["tau"] is None and figures["tokens"] == 0 and figures["accept_hist"] == []


def test_run_figures_add_up_and_rate_is_over_wall_clock() -> None:
    run = RunFigures(number=1)
    assert run.tokens_per_s == 0.0
    run = run.with_part({"windows": 2, "errors": 1, "tokens": 30}, wall_s=4.0)
    run = run.with_part({"windows": 1, "errors": 0, "tokens": 20}, wall_s=10.0)
    assert (run.windows, run.errors, run.tokens, run.tokens_per_s) == (3, 1, 50, 5.0)
