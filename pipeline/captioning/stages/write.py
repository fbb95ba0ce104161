"""Stage 5: write caption rows as a part of the table, atomically. A repeated call writes the same file again."""

import io
import uuid
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.common.ids import NAMESPACE
from pipeline.common.rows import CAPTION, PART, to_table
from pipeline.common.storage import Folder

CAPTIONS = "captions"


def part_name(run: int, window_ids: list[str]) -> str:
    """File name of the part that holds these windows of a run."""
    return f"part-{run:05d}-{uuid.uuid5(NAMESPACE, ' '.join(window_ids)).hex[:16]}.parquet"


def run_of_part(name: str) -> int | None:
    """Number of the run that wrote a part; None for any other file name."""
    pieces = name.removesuffix(".parquet").split("-")
    if len(pieces) == 3 and pieces[0] == "part" and pieces[1].isdigit() and name.endswith(".parquet"):
        return int(pieces[1])
    return None


def parquet_bytes(rows: pa.Table) -> bytes:
    """Content of a Parquet file of these rows, cast to the CAPTION schema."""
    buffer = io.BytesIO()
    pq.write_table(rows.cast(CAPTION), buffer, compression="zstd")
    return buffer.getvalue()


def make_writer(folder_url: str, run: int) -> Callable[[pa.Table], pa.Table]:
    """A function that stores CAPTION rows as one part in the folder's `captions/` and returns one PART row."""

    def write_part(rows: pa.Table) -> pa.Table:
        name = part_name(run, rows["window_id"].to_pylist())
        Folder(folder_url).write(f"{CAPTIONS}/{name}", parquet_bytes(rows))
        errors = pc.sum(pc.equal(rows["status"], "error")).as_py() or 0
        tokens = pc.sum(rows["output_tokens"]).as_py() or 0
        return to_table([{"part": name, "windows": rows.num_rows, "errors": errors, "tokens": tokens}], PART)

    return write_part
