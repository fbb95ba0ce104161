"""Windows of a finished captioning run as requests: to audit its captions, train drafters and measure them."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.captioning.ledger import SETTINGS, stored_rows
from pipeline.captioning.stages.decode import DecodeWindows, frames_of
from pipeline.common.rows import WINDOW, Row, to_table
from pipeline.common.storage import Folder
from sparrow_core.config import DecodeConfig, FrameSamplingConfig, Sampling
from sparrow_core.errors import ConfigError
from sparrow_core.media.frame_spec import FrameSpec
from sparrow_core.types import Message, Request

WindowKey = tuple[str, float | None, float | None]
_COLUMNS = [
    *WINDOW.names, "frame_times", "token_ids", "sampling", "prompt", "target_fingerprint", "visual_tokens",
    "dtype",
]  # fmt: skip


class CaptionRunTable:
    """The successful rows of a captioning run, keyed by window, and the settings they were made with."""

    def __init__(self, output: str) -> None:
        """Read the run in folder `output`. Raises ConfigError if there is none."""
        folder = Folder(output)
        content = folder.read(SETTINGS)
        if content is None:
            raise ConfigError(f"{output} holds no captioning run: there is no {SETTINGS} in it")
        self.settings: dict[str, Any] = json.loads(content)
        rows = stored_rows(folder, _COLUMNS).to_pylist()
        self.rows: dict[WindowKey, Row] = {
            (row["source_uri"], row["start_s"], row["end_s"]): row for row in rows if row["status"] == "success"
        }


class RowRequests:
    """Turns stored rows back into requests by decoding their frames again.

    The decoding child process starts with the first request. It is not pickled: a copy in another process starts its
    own.
    """

    def __init__(self, settings: Mapping[str, Any], frame_spec: FrameSpec, decode: DecodeConfig) -> None:
        self._frames = FrameSamplingConfig(**settings["frames"])
        self._frame_spec, self._limits = frame_spec, decode
        self._max_new_tokens = int(settings["max_new_tokens"])

    def request(self, row: Row) -> Request:
        """The row's frames and prompt as a request. Raises ConfigError if the frames cannot be decoded."""
        pending = {**row, "status": None}
        decoded = self._decode(to_table([pending], WINDOW)).to_pylist()[0]
        if decoded["status"] == "error":
            raise ConfigError(f"{row['source_uri']} cannot be decoded again: {decoded['error']}")
        messages = (Message("user", (frames_of(decoded), row["prompt"])),)
        sampling = Sampling(**json.loads(row["sampling"]))
        return Request(messages, sampling, self._max_new_tokens, row["window_id"])

    @cached_property
    def _decode(self) -> DecodeWindows:
        return DecodeWindows(self._limits, self._frames, self._frame_spec)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_decode"}


@dataclass(frozen=True)
class StoredWindow:
    """A stored row; calling it decodes the frames and returns the request."""

    source: RowRequests
    row: Row

    def __call__(self) -> Request:
        return self.source.request(self.row)


def nearest_length(lengths: Iterable[int], visual_tokens: int) -> int:
    """The one of `lengths` whose ratio to `visual_tokens` is nearest to 1."""
    return min(lengths, key=lambda length: abs(math.log(length / max(1, visual_tokens))))


def stored_windows(run: CaptionRunTable, frame_spec: FrameSpec, decode: DecodeConfig) -> list[StoredWindow]:
    """All windows of a run, in order of their ids. Raises ConfigError if it has none."""
    if not run.rows:
        raise ConfigError("the captioning run holds no caption to train or measure a drafter on")
    source = RowRequests(run.settings, frame_spec, decode)
    return [StoredWindow(source, row) for row in sorted(run.rows.values(), key=lambda row: str(row["window_id"]))]


def one_of_each_video(windows: Iterable[StoredWindow]) -> list[StoredWindow]:
    """The first window of each video: windows of one video are too alike to count as independent samples."""
    first: dict[str, StoredWindow] = {}
    for window in windows:
        first.setdefault(window.row["source_uri"], window)
    return list(first.values())


def by_length(windows: Iterable[StoredWindow], lengths: tuple[int, ...]) -> dict[int, list[StoredWindow]]:
    """Windows grouped by the nearest of these visual lengths, as `nearest_length` chooses it."""
    found: dict[int, list[StoredWindow]] = defaultdict(list)
    for window in windows:
        found[nearest_length(lengths, window.row["visual_tokens"])].append(window)
    return dict(sorted(found.items()))
