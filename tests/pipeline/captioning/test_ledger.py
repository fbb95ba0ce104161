"""The ledger: which windows are missing, which rows supersede which, and what survives a kill."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.captioning.ledger import Ledger
from pipeline.captioning.stages.write import make_writer
from pipeline.common.ids import video_id
from pipeline.common.rows import CAPTION, to_table
from pipeline.common.storage import Folder
from sparrow_core.errors import ConfigError

SETTINGS = {"prompt": "Describe.", "frames": {"fps": 2.0}}


def row(uri: str, status: str, *, index: int | None = 0, of: int | None = 1, caption: str = "") -> dict[str, Any]:
    window = f"{uri}/{'whole' if index is None else index}"
    return {
        "window_id": window,
        "video_id": video_id(uri),
        "source_uri": uri,
        "window_index": index,
        "num_windows": of,
        "status": status,
        "caption": caption,
        "output_tokens": 5 if status == "success" else None,
    }


def write(folder: Path, run: int, *rows: dict[str, Any]) -> str:
    (part,) = make_writer(str(folder), run)(to_table(rows, CAPTION)).to_pylist()
    return part["part"]


def plain_read(folder: Path) -> pd.DataFrame:
    """The table as a plain Parquet reader sees it, without the ledger."""
    return pd.read_parquet(folder / "captions").sort_values("window_id").reset_index(drop=True)


def open_ledger(folder: Path) -> Ledger:
    return Ledger(Folder(str(folder)), SETTINGS)


def test_a_new_folder_has_everything_to_do(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "new")
    assert ledger.next_run == 1
    assert ledger.remaining(["a", "b"], retry_errors=True).sources == ("a", "b")


def test_success_is_done_and_errors_are_tried_again_unless_told_otherwise(tmp_path: Path) -> None:
    write(tmp_path, 1, row("a", "success"), row("b", "error"), row("c", "error", index=None, of=None))
    ledger = open_ledger(tmp_path)
    assert ledger.next_run == 2
    assert ledger.remaining(["a", "b", "c", "d"], retry_errors=True).sources == ("b", "c", "d")
    assert ledger.remaining(["a", "b", "c", "d"], retry_errors=False).sources == ("d",)


def test_a_video_is_done_when_all_of_its_windows_are(tmp_path: Path) -> None:
    write(tmp_path, 1, row("a", "success", index=0, of=3), row("a", "success", index=2, of=3))
    write(tmp_path, 1, row("b", "success", index=0, of=2), row("b", "success", index=1, of=2))
    work = open_ledger(tmp_path).remaining(["a", "b"], retry_errors=True)
    assert work.sources == ("a",)
    assert work.done_windows == {"a/0", "a/2"}


def test_success_beats_failure_whichever_came_first(tmp_path: Path) -> None:
    write(
        tmp_path, 1, row("a", "error"), row("b", "success", caption="kept"), row("c", "success", caption="whole part")
    )
    write(tmp_path, 2, row("a", "success", caption="second try"), row("b", "error"))
    open_ledger(tmp_path)
    table = plain_read(tmp_path)
    assert table["window_id"].tolist() == ["a/0", "b/0", "c/0"]
    assert table["caption"].tolist() == ["second try", "kept", "whole part"]


def test_of_two_failures_the_later_stands(tmp_path: Path) -> None:
    write(tmp_path, 1, row("a", "error") | {"reason": "timeout"})
    write(tmp_path, 2, row("a", "error") | {"reason": "crash"})
    open_ledger(tmp_path)
    assert plain_read(tmp_path)["reason"].tolist() == ["crash"]


def test_which_row_stands_does_not_depend_on_the_order_of_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at a time may take the same number, and put a window into parts with different others."""
    ledger = open_ledger(tmp_path)
    for run in (1, 2):
        for other in ("b", "c"):
            write(tmp_path, run, row("a", "success", caption=f"of run {run}, beside {other}"), row(other, "success"))
    found = ledger.table(["window_id", "caption"]).to_pylist()
    assert sorted(each["window_id"] for each in found) == ["a/0", "b/0", "c/0"]
    assert all(each["caption"].startswith("of run 2") for each in found if each["window_id"] == "a/0")
    names = Folder.names
    monkeypatch.setattr(Folder, "names", lambda folder, path="": list(names(folder, path))[::-1])
    again = ledger.table(["window_id", "caption"]).to_pylist()
    assert sorted(again, key=itemgetter("window_id")) == sorted(found, key=itemgetter("window_id"))


def test_unopened_video_gives_way_to_its_windows(tmp_path: Path) -> None:
    write(tmp_path, 1, row("a", "error", index=None, of=None))
    write(tmp_path, 2, row("a", "success", index=0, of=2), row("a", "error", index=1, of=2))
    open_ledger(tmp_path)
    assert plain_read(tmp_path)["window_id"].tolist() == ["a/0", "a/1"]


def test_compaction_leaves_untouched_parts_alone_and_removes_empty_ones(tmp_path: Path) -> None:
    good = write(tmp_path, 1, row("a", "success"))
    bad = write(tmp_path, 1, row("b", "error"))
    before = (tmp_path / "captions" / good).stat().st_mtime_ns
    write(tmp_path, 2, row("b", "success"))
    open_ledger(tmp_path)
    assert (tmp_path / "captions" / good).stat().st_mtime_ns == before
    assert not (tmp_path / "captions" / bad).exists()


def test_rows_are_read_correctly_before_anybody_compacts(tmp_path: Path) -> None:
    """A killed run leaves superseded rows behind, which the ledger's own reader skips."""
    ledger = open_ledger(tmp_path)
    write(tmp_path, 1, row("a", "error"))
    write(tmp_path, 2, row("a", "success", caption="yes"))
    assert ledger.table(["window_id", "caption"]).to_pylist() == [{"window_id": "a/0", "caption": "yes"}]


def test_a_cut_off_write_is_cleared_away(tmp_path: Path) -> None:
    part = write(tmp_path, 1, row("a", "success"))
    leftover = tmp_path / "captions" / f".{part}.123.tmp"
    leftover.write_bytes(b"PAR1 half a file")
    assert len(plain_read(tmp_path)) == 1
    open_ledger(tmp_path)
    assert not leftover.exists()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    write(tmp_path, ledger.next_run, row("a", "success"))
    other = SETTINGS | {"prompt": "What happens?"}
    with pytest.raises(ConfigError, match=r'prompt was "Describe\.", is now "What happens\?"') as refusal:
        Ledger(Folder(str(tmp_path)), other)
    assert "frames" not in str(refusal.value)
    open_ledger(tmp_path)


def test_settings_may_change_while_there_are_no_captions(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    Ledger(Folder(str(tmp_path)), SETTINGS | {"prompt": "What happens?"})


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    part = write(tmp_path, 1, row("a", "success"))
    (tmp_path / "captions" / part).write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match=part):
        open_ledger(tmp_path)


def test_parts_carry_the_schema_and_its_version(tmp_path: Path) -> None:
    part = write(tmp_path, 1, row("a", "success"))
    schema = pq.read_schema(tmp_path / "captions" / part)
    assert schema.remove_metadata() == CAPTION.remove_metadata()
    assert schema.metadata[b"schema_version"] == b"1"


def test_writing_the_same_rows_again_makes_no_second_part(tmp_path: Path) -> None:
    assert write(tmp_path, 1, row("a", "success")) == write(tmp_path, 1, row("a", "success"))
    assert len(list((tmp_path / "captions").iterdir())) == 1
