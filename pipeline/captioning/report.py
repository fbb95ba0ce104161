"""The report of a captioning run: figures of the run and of its table. Formatting is in `console.py`."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.ledger import Ledger
from pipeline.common.provenance import provenance
from pipeline.common.rows import SCHEMA_VERSION, Row
from pipeline.common.storage import Folder

REPORT = "report.json"

# Stage -> the column that holds its seconds. `draft` and `verify` are parts of `decode_tokens`.
_STAGES = {
    "media_decode": "t_decode_s",
    "vision": "t_vision_s",
    "prefill": "t_prefill_s",
    "drafter_prefill": "t_drafter_prefill_s",
    "draft": "t_draft_s",
    "verify": "t_verify_s",
    "decode_tokens": "t_decode_tokens_s",
}
_COLUMNS = [
    *_STAGES.values(),
    *("status", "reason", "start_s", "end_s", "output_tokens", "rounds", "tau", "accept_hist", "audit"),
    *("in_doubt_tokens", "batch_deviation", "device", "dtype", "target_id", "target_fingerprint"),
    *("capture", "captured_bytes", "t_capture_s"),
]


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run: counts over its stored parts, and wall seconds since its graph started."""

    number: int
    windows: int = 0
    errors: int = 0
    tokens: int = 0
    wall_s: float = 0.0
    interrupted: bool = False

    @property
    def tokens_per_s(self) -> float:
        """Committed caption tokens per second of wall clock, which includes starting the workers and auditing."""
        return self.tokens / self.wall_s if self.wall_s else 0.0

    def with_part(self, part: Row, wall_s: float) -> "RunFigures":
        """The figures after one more PART row."""
        return replace(
            self,
            windows=self.windows + part["windows"],
            errors=self.errors + part["errors"],
            tokens=self.tokens + part["tokens"],
            wall_s=wall_s,
        )


def build_report(
    ledger: Ledger,
    config: CaptionConfig,
    settings: dict[str, Any],
    figures: RunFigures,
    threads: int,
    lost_videos: tuple[str, ...],
) -> dict[str, Any]:
    """Content of `report.json`. `run` and `tokens_per_s` describe this run, all other figures the whole table.

    `lost_videos` have windows without a row because their worker died; the next run tries them again.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        **table_figures(ledger),
        "tokens_per_s": round(figures.tokens_per_s, 3),
        "run": asdict(figures),
        "lost_videos": list(lost_videos),
        "threads": threads,
        "draft": config.draft,
        "settings": settings,
        "versions": provenance(),
    }


def store_report(folder: Folder, report: dict[str, Any]) -> None:
    """Write `report.json`."""
    folder.write(REPORT, json.dumps(report, indent=2, ensure_ascii=False).encode() + b"\n")


def table_figures(ledger: Ledger) -> dict[str, Any]:
    """Totals over the caption table. `tau` is the tokens committed by rounds, divided by the number of rounds."""
    table = ledger.table(_COLUMNS)
    success = table.filter(pc.equal(table["status"], "success"))
    rounds = _total(success["rounds"])
    from_rounds = _total(pc.multiply(success["tau"], pc.cast(success["rounds"], pa.float64())))
    audits = Counter(success["audit"].to_pylist())
    return {
        "windows": {
            "total": table.num_rows,
            "success": success.num_rows,
            "error": table.num_rows - success.num_rows,
        },
        "errors": dict(Counter(reason for reason in table["reason"].to_pylist() if reason)),
        "tokens": int(_total(success["output_tokens"])),
        "video_s": round(_total(pc.subtract(success["end_s"], success["start_s"])), 3),
        "tau": round(from_rounds / rounds, 4) if rounds else None,
        "accept_hist": _accept_hist(success["accept_hist"]),
        "audit": {"checked": audits["equal"] + audits["diverged"], "equal": audits["equal"]},
        "batch_deviation": pc.max(success["batch_deviation"]).as_py(),
        "in_doubt_tokens": int(_total(success["in_doubt_tokens"])),
        "capture": {
            "windows": dict(Counter(what for what in success["capture"].to_pylist() if what not in (None, "none"))),
            "bytes": int(_total(success["captured_bytes"])),
            "seconds": round(_total(success["t_capture_s"]), 3),
        },
        "stage_s": {stage: round(_total(success[column]), 3) for stage, column in _STAGES.items()},
        "target": _distinct(success["target_id"]),
        "target_fingerprint": _distinct(success["target_fingerprint"]),
        "device": _distinct(success["device"]),
        "dtype": _distinct(success["dtype"]),
    }


def _total(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0)


def _distinct(column: pa.ChunkedArray) -> list[str]:
    return sorted(value for value in pc.unique(column).to_pylist() if value is not None)


def _accept_hist(column: pa.ChunkedArray) -> list[int]:
    total: Counter[int] = Counter()
    for hist in column.to_pylist():
        total.update(dict(enumerate(hist or [])))
    return [total[accepted] for accepted in range(max(total, default=-1) + 1)]
