"""The ledger of a caption table: which windows are done, and which row of a window counts, read from the table itself.

Rules, which hold even if a run was killed at any moment:
1. A part is written atomically and never changed by the run that wrote it; its name contains the number of that run.
2. Among the rows of one window, a success supersedes an error; otherwise the later run supersedes the earlier one.
3. A row of a video that could not be opened (an error without `window_index`) is superseded by any row of the same
   video from a later run.
`compact` removes superseded rows by rewriting their parts, each in one atomic replacement, so that plain readers of the
folder find one row per window. It runs when a folder is opened and when a run ends.

Knows nothing of Ray. Two concurrent runs on one folder duplicate work but lose no rows.
"""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.captioning.stages.write import CAPTIONS, parquet_bytes, run_of_part
from pipeline.common.ids import differing_settings, settings_fingerprint, video_id
from pipeline.common.rows import CAPTION, FORMER_NAMES
from pipeline.common.storage import Folder
from sparrow_core.errors import ConfigError

SETTINGS = "settings.json"
_KEYS = ["window_id", "video_id", "window_index", "num_windows", "status"]


@dataclass(frozen=True)
class Entry:
    """The columns of a row that the ledger needs."""

    part: str
    run: int
    window_id: str
    video_id: str
    window_index: int | None
    num_windows: int | None
    status: str

    @property
    def rank(self) -> tuple[bool, int, str]:
        """Sort key for the rows of one window: the row with the greatest rank supersedes the others."""
        return self.status == "success", self.run, self.part


@dataclass(frozen=True)
class Work:
    """What is left to do: source URIs with missing windows, and those of their windows that are done already."""

    sources: tuple[str, ...]
    done_windows: frozenset[str]


class Ledger:
    """The caption table of one output folder, bound to the settings that its captions were made with."""

    def __init__(self, folder: Folder, settings: dict[str, Any]) -> None:
        """Open a folder and compact it. Raises ConfigError if its captions were made with other settings."""
        self.folder = folder
        self._bind(settings)
        for name in folder.names(CAPTIONS):
            if name.startswith(".part-") and name.endswith(".tmp"):  # a write that a kill cut off
                folder.remove(f"{CAPTIONS}/{name}")
        self.compact()
        runs = [run_of_part(name) or 0 for name in folder.names(CAPTIONS)]
        self.next_run = 1 + max(runs, default=0)

    def remaining(self, sources: Iterable[str], *, retry_errors: bool) -> Work:
        """The sources with missing windows. With `retry_errors`, a window that ended in an error counts as missing."""
        done_entries: dict[str, list[Entry]] = {}
        for entry in self._entries():
            if entry.status == "success" or not retry_errors:
                done_entries.setdefault(entry.video_id, []).append(entry)
        missing = tuple(source for source in sources if not _is_complete(done_entries.get(video_id(source), [])))
        done = {entry.window_id for source in missing for entry in done_entries.get(video_id(source), [])}
        return Work(missing, frozenset(done))

    def compact(self) -> None:
        """Remove superseded rows from the parts that hold them."""
        by_part: dict[str, set[str]] = {}
        entries = self._entries()
        current = _current(entries)
        for entry in entries:
            if entry not in current:
                by_part.setdefault(entry.part, set())
        for entry in current:
            if entry.part in by_part:
                by_part[entry.part].add(entry.window_id)
        for part, keep in by_part.items():
            self._rewrite(part, keep)

    def table(self, columns: list[str]) -> pa.Table:
        """Columns of the table without superseded rows: one row per window."""
        current = {(entry.part, entry.window_id) for entry in _current(self._entries())}
        pieces = [pa.schema([CAPTION.field(column) for column in columns]).empty_table()]
        for part in parts_of(self.folder):
            rows = read_part(self.folder, part, list({"window_id", *columns}))
            is_current = [(part, window) in current for window in rows["window_id"].to_pylist()]
            pieces.append(rows.filter(pa.array(is_current, pa.bool_())).select(columns))
        return pa.concat_tables(pieces)

    def _bind(self, settings: dict[str, Any]) -> None:
        content = self.folder.read(SETTINGS)
        if content is None or not parts_of(self.folder):
            self.folder.write(SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False).encode() + b"\n")
            return
        earlier = json.loads(content)
        if settings_fingerprint(earlier) == settings_fingerprint(settings):
            return
        differences = "; ".join(
            f"{key} was {json.dumps(earlier.get(key), ensure_ascii=False)}, "
            f"is now {json.dumps(settings.get(key), ensure_ascii=False)}"
            for key in differing_settings(earlier, settings)
        )
        raise ConfigError(
            f"output folder {self.folder.url} holds captions made with other settings ({differences}); "
            "give another --output, or the same settings"
        )

    def _entries(self) -> list[Entry]:
        return [
            Entry(part=part, run=run_of_part(part) or 0, **row)
            for part in parts_of(self.folder)
            for row in read_part(self.folder, part, _KEYS).to_pylist()
        ]

    def _rewrite(self, part: str, keep: set[str]) -> None:
        if not keep:
            self.folder.remove(f"{CAPTIONS}/{part}")
            return
        rows = read_part(self.folder, part)
        kept = rows.filter(pa.array([window in keep for window in rows["window_id"].to_pylist()], pa.bool_()))
        self.folder.write(f"{CAPTIONS}/{part}", parquet_bytes(kept))


def parts_of(folder: Folder) -> list[str]:
    """Names of the parts of a caption table."""
    return [name for name in folder.names(CAPTIONS) if run_of_part(name) is not None]


def read_part(folder: Folder, part: str, columns: list[str] | None = None) -> pa.Table:
    """A part, or some columns of it. Columns that a part of an earlier version lacks are null.

    Raises ConfigError if the file is not Parquet.
    """
    content = folder.read(f"{CAPTIONS}/{part}")
    try:
        file = pq.ParquetFile(io.BytesIO(content or b""))
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{folder.url}/{CAPTIONS}/{part} is not a part of this table: {error}") from error
    wanted = pa.schema([CAPTION.field(name) for name in columns]) if columns else CAPTION
    stored = {FORMER_NAMES.get(name, name): name for name in file.schema_arrow.names}
    present = [name for name in wanted.names if name in stored]
    rows = file.read([stored[name] for name in present]).select([stored[name] for name in present])
    rows = rows.rename_columns(present)
    return pa.concat_tables([wanted.empty_table(), rows], promote_options="permissive")


def stored_rows(folder: Folder, columns: list[str]) -> pa.Table:
    """Columns of all parts, superseded rows included. Safe to call while a run adds parts."""
    empty = pa.schema([CAPTION.field(name) for name in columns]).empty_table()
    return pa.concat_tables([empty, *(read_part(folder, part, columns) for part in parts_of(folder))])


def _is_complete(entries: list[Entry]) -> bool:
    """Whether a video's done rows cover it: all of its windows, or the one row of a video that cannot be opened."""
    return any(entry.num_windows is None or len(entries) == entry.num_windows for entry in entries)


def _current(entries: list[Entry]) -> set[Entry]:
    """The rows that no other row supersedes, by this module's rules."""
    best: dict[str, Entry] = {}
    last_run: dict[str, int] = {}
    for entry in entries:
        last_run[entry.video_id] = max(entry.run, last_run.get(entry.video_id, 0))
        if entry.window_id not in best or entry.rank > best[entry.window_id].rank:
            best[entry.window_id] = entry
    return {
        entry
        for entry in best.values()
        if entry.status == "success" or entry.window_index is not None or entry.run == last_run[entry.video_id]
    }
