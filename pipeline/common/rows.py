"""The rows that travel between stages: one Arrow schema per boundary, each an extension of the one before it.

Owns names and types of columns. A row is a plain dict; `status` stays null while a row is in work, becomes "error"
where a stage fails, and is "success" or "error" in the caption table.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1

Row = dict[str, Any]


def _extended(schema: pa.Schema, fields: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in fields)], metadata=schema.metadata)


# What the listing knows of a file.
VIDEO = pa.schema(
    [("video_id", pa.string()), ("source_uri", pa.string())], metadata={"schema_version": str(SCHEMA_VERSION)}
)

# Facts of the file. `duration_s` is that of the whole video; the span of a window is `start_s` to `end_s`.
PROBED = _extended(
    VIDEO,
    [
        ("status", pa.string()),
        ("reason", pa.string()),  # machine-readable cause of an error
        ("error", pa.string()),  # the same for people
        ("duration_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("src_fps", pa.float64()),
        ("codec", pa.string()),
    ],
)

# A video that could not be opened has one row, without `window_index`: nobody knows its windows.
WINDOW = _extended(
    PROBED,
    [
        ("window_id", pa.string()),
        ("window_index", pa.int32()),
        ("num_windows", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ],
)

SAMPLED = _extended(
    WINDOW,
    [
        ("sampled_fps", pa.float64()),
        ("frame_times", pa.list_(pa.float64())),  # seconds from the start of the video
        ("n_frames", pa.int32()),
        ("t_decode_s", pa.float64()),  # media decoding
    ],
)

# `pixels` is uint8 RGB [n_frames, pixels_height, pixels_width, 3], row-major.
FRAMES = _extended(
    SAMPLED, [("pixels", pa.large_binary()), ("pixels_height", pa.int32()), ("pixels_width", pa.int32())]
)

# The caption table. Times are wall seconds; `accept_hist[i]` counts the rounds that accepted i drafted tokens.
CAPTION = _extended(
    SAMPLED,
    [
        ("visual_tokens", pa.int32()),
        ("prompt", pa.string()),
        ("prompt_hash", pa.string()),
        ("target_id", pa.string()),
        ("target_fingerprint", pa.string()),
        ("draft_id", pa.string()),
        ("draft_fingerprint", pa.string()),
        ("sampling", pa.string()),  # JSON
        ("caption", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("rounds", pa.int32()),
        ("drafted_tokens", pa.int32()),
        ("in_doubt_tokens", pa.int32()),  # near-ties decided by a pass over one row
        ("tau", pa.float64()),
        ("accept_hist", pa.list_(pa.int32())),
        ("t_vision_s", pa.float64()),
        ("t_prefill_s", pa.float64()),
        ("t_drafter_prefill_s", pa.float64()),
        ("t_draft_s", pa.float64()),
        ("t_verify_s", pa.float64()),
        ("t_decode_tokens_s", pa.float64()),  # from the end of target prefill to the last token
        ("audit", pa.string()),  # none | equal | diverged
        ("capture", pa.string()),  # none | stored | over_quota | failed
        ("captured_bytes", pa.int64()),
        ("t_capture_s", pa.float64()),  # writing further captions to learn from, and storing their states
        ("device", pa.string()),
        ("dtype", pa.string()),
        ("batch_deviation", pa.float64()),  # how much a row's logits depend on the others in its pass; 0: not at all
        ("settings_fingerprint", pa.string()),
        ("created_at", pa.timestamp("ms", tz="UTC")),
        ("schema_version", pa.int32()),
    ],
)

# Columns that parts of an earlier version have under another name.
FORMER_NAMES = {"row_noise": "batch_deviation"}

# What a capture says of a window. `status` is success, error or skipped; `window_id` names the shard.
CAPTURED = pa.schema(
    [
        ("window_id", pa.string()),
        ("source_uri", pa.string()),
        ("num_windows", pa.int32()),  # of the video
        ("status", pa.string()),
        ("reason", pa.string()),
        ("error", pa.string()),
        ("captions", pa.int32()),
        ("captured_bytes", pa.int64()),
        ("t_capture_s", pa.float64()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

# What the write stage reports to the driver about a part that is safely stored.
PART = pa.schema(
    [("part", pa.string()), ("windows", pa.int64()), ("errors", pa.int64()), ("tokens", pa.int64())],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)


def to_table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of exactly `schema`: a missing column is null, one that the schema lacks is dropped."""
    return pa.Table.from_pylist(list(rows), schema=schema)
