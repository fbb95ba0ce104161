"""The row boundary: any failure of one window becomes an error row; faults of the worker itself propagate."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from pipeline.common.rows import Row, to_table
from sparrow_core.errors import CheckpointError, ConfigError, EngineClosedError, MediaError

_log = logging.getLogger(__name__)

# Faults of the worker rather than of a row: its process must end, so that Ray replaces it.
_WORKER_FAULTS = (EngineClosedError, CheckpointError)


@contextlib.contextmanager
def row_boundary(row: Row) -> Iterator[None]:
    """Turn an exception into the row's `status`, `reason` and `error`; faults of the worker propagate."""
    try:
        yield
    except _WORKER_FAULTS:
        raise
    except MediaError as error:
        _fail(row, error.reason, str(error))
    except ConfigError as error:
        _fail(row, "refused", str(error))
    except Exception as error:
        _log.exception("window %s of %s failed", row.get("window_id"), row.get("source_uri"))
        _fail(row, "internal_error", f"{type(error).__name__}: {error}")


def for_each_row(rows: pa.Table, work: Callable[[Row], Sequence[Row]], schema: pa.Schema) -> pa.Table:
    """Apply `work` to every row that has not failed yet and pass failed rows through. Returns a table of `schema`."""
    results: list[Row] = []
    for row in rows.to_pylist():
        produced: Sequence[Row] = [row]
        if row.get("status") is None:
            with row_boundary(row):
                produced = work(row)
        results.extend(produced)
    return to_table(results, schema)


def _fail(row: Row, reason: str, message: str) -> None:
    row.update(status="error", reason=reason, error=message)
