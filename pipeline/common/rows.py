"""Schemas of the rows that travel between stages, the caption table's among them; each extends the one before it.

Owns names and types of columns. A row is a plain dict. `status` is null until a stage fails ("error") or the caption is
finished ("success"); in the caption table it is always one of the two.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1

Row = dict[str, Any]


def _extended(schema: pa.Schema, fields: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in fields)], metadata=schema.metadata)


# A video as it was listed.
VIDEO = pa.schema(
    [("video_id", pa.string()), ("source_uri", pa.string())], metadata={"schema_version": str(SCHEMA_VERSION)}
)

# A probed file. `duration_s` is the length of the whole video; a window spans `start_s` to `end_s`.
PROBED = _extended(
    VIDEO,
    [
        ("status", pa.string()),
        ("reason", pa.string()),  # cause of the error, machine-readable
        ("error", pa.string()),  # message of the error, for people
        ("duration_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("src_fps", pa.float64()),
        ("codec", pa.string()),
    ],
)

# A video that could not be opened has one row whose `window_index` is null, since its windows are unknown.
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
        ("in_doubt_tokens", pa.int32()),  # near-ties, decided by a pass over a single row
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
        ("t_capture_s", pa.float64()),  # sampling captions for distillation and storing their hidden states
        ("device", pa.string()),
        ("dtype", pa.string()),
        ("batch_deviation", pa.float64()),  # largest change of a row's logits by the other rows of a pass; 0: none
        ("settings_fingerprint", pa.string()),
        ("created_at", pa.timestamp("ms", tz="UTC")),
        ("schema_version", pa.int32()),
    ],
)

# Column names in parts of an earlier version -> today's names.
FORMER_NAMES = {"row_noise": "batch_deviation"}

# Outcome of capturing a window. `status` is success, error or skipped; `window_id` names the shard.
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

# What the write stage reports to the driver about a part once it is stored.
PART = pa.schema(
    [("part", pa.string()), ("windows", pa.int64()), ("errors", pa.int64()), ("tokens", pa.int64())],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)


def to_table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of exactly `schema`: missing columns become null, other columns are dropped."""
    return pa.Table.from_pylist(list(rows), schema=schema)
