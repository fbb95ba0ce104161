"""Journal of a long measurement: one line of JSON per result, so that an interrupted measurement resumes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common.ids import differing_settings
from pipeline.common.storage import Folder
from sparrow_core.errors import ConfigError

Entry = dict[str, Any]


class Journal:
    """Results on disk; `entries` keeps them in the order in which they were added.

    The first line of the file holds the settings of the measurement. A last line that a kill cut off is dropped.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open or create the journal at `path`. Raises ConfigError if it was made with other settings."""
        self._path = path
        self.entries: list[Entry] = []
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if not whole:
            whole = [json.dumps(settings) + "\n"]
        elif (earlier := json.loads(whole[0])) != settings:
            differing = ", ".join(f"{key}={earlier.get(key)!r}" for key in differing_settings(earlier, settings))
            raise ConfigError(f"{path} was measured with {differing}; name another --output")
        if whole != lines:
            Folder(str(path.parent)).write(path.name, "".join(whole).encode())
        self.entries += map(json.loads, whole[1:])

    def add(self, entry: Entry) -> None:
        """Append a result to `entries` and to the file."""
        self.entries.append(entry)
        with self._path.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
