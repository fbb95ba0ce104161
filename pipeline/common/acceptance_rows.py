"""Acceptance rows of measured drafters as a JSON file: written and read."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.common.storage import Folder
from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow


def store_acceptance(path: Path, rows: Sequence[AcceptanceRow]) -> None:
    """Write the rows as a JSON list."""
    content = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    Folder(str(path.parent)).write(path.name, content.encode())


def read_acceptance(path: Path) -> list[AcceptanceRow]:
    """The rows of a file that `store_acceptance` wrote. Raises ConfigError if it is missing or of another version."""
    try:
        return [AcceptanceRow(**row) for row in json.loads(path.read_text())]
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}; measure the drafter with jobs/evaluate_draft.py first") from error
    except TypeError as error:
        raise ConfigError(f"{path} was written by another version ({error}); measure the drafter again") from error
