"""Stage 4: the caption of a window, from the one Engine that its worker hosts, and the audit of a share of them.

Owns what is asked of the engine and which of its figures a row keeps. Knows nothing of batching or drafting methods.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.stages.boundary import row_boundary
from pipeline.captioning.stages.capture import CaptureSink, WindowCapture
from pipeline.captioning.stages.decode import frames_of
from pipeline.common.checkpoints import checkpoint_name
from pipeline.common.ids import in_audit, in_capture, prompt_hash, window_number
from pipeline.common.rows import CAPTION, SCHEMA_VERSION, Row
from pipeline.common.worker_engine import completions, fill_rows, worker_engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.types import Completion, Message, Request


@dataclass(frozen=True)
class CaptionRun:
    """What a caption worker must know: settings, their fingerprint, the drafter's identity, torch's threads, and what
    to capture beside captioning."""

    config: CaptionConfig
    settings_fingerprint: str
    draft_fingerprint: str | None
    threads: int
    capture: CaptureSink | None = None


class CaptionWindows:
    """Async callable on tables of FRAMES rows. Several calls may be in flight; each awaits only its own windows."""

    def __init__(self, run: CaptionRun) -> None:
        torch.set_num_threads(run.threads)
        config = run.config
        self._engine = worker_engine(config)
        info = self._engine.target.info
        self._run = run
        self._facts = _run_facts(run, info.name, info.fingerprint) | {
            "device": _device_name(info.device),
            "dtype": info.dtype_name,
            "batch_deviation": self._engine.batch_deviation,
        }
        self._audits_begun = 0
        self._capture = WindowCapture(self._engine, run.capture) if run.capture else None

    async def __call__(self, windows: pa.Table) -> pa.Table:
        return await fill_rows(windows, self._fill, CAPTION)

    async def _fill(self, row: Row) -> None:
        """Complete a row in place: with its caption, or with the error that it carries or meets here."""
        row.update(self._facts, audit="none", capture="none")
        if row["status"] is None:
            await self._caption(row)
        row["created_at"] = datetime.now(UTC)

    async def _caption(self, row: Row) -> None:
        with row_boundary(row):
            window, request = row["window_id"], self._request(row)
            caption = self._engine.default_mode(request.sampling)
            audit = [replace(caption, drafter=None)] if self._audit_is_due(window) else []
            samples: list[DecodeMode] = []
            if self._capture and in_capture(window, self._run.config.capture.share):
                if self._capture.is_full:
                    row["capture"] = "over_quota"
                elif self._run.config.capture.own_caption:
                    caption = replace(caption, recording=self._capture.recorder())
                else:
                    samples = self._capture.modes(window_number(window))
            completion, *others = await completions(self._engine, request, [caption, *audit, *samples])
            checked, sampled = others[: len(audit)], others[len(audit) :]
            row.update(_figures(completion), status="success")
            if checked:
                row["audit"] = "equal" if checked[0].token_ids == completion.token_ids else "diverged"
            if caption.recording:
                await self._store_states(row, [caption], [completion])
            elif samples:
                await self._store_states(row, samples, sampled)
                row["t_capture_s"] += sum(c.timings.decode_s for c in sampled)

    async def _store_states(self, row: Row, modes: Sequence[DecodeMode], written: Sequence[Completion]) -> None:
        """Store what was recorded; a caption that is there is not lost to what goes wrong here."""
        assert self._capture is not None
        began = time.perf_counter()
        outcome: Row = {"capture": "failed", "window_id": row["window_id"], "source_uri": row["source_uri"]}
        with row_boundary(outcome):
            stored = await self._capture.store(row["window_id"], row["source_uri"], modes, written)
            outcome["capture"], outcome["captured_bytes"] = stored
        row.update(capture=outcome["capture"], captured_bytes=outcome.get("captured_bytes", 0))
        row["t_capture_s"] = time.perf_counter() - began

    def _request(self, row: Row) -> Request:
        config = self._run.config
        return Request(
            messages=(Message("user", (frames_of(row), config.prompt)),),
            sampling=config.sampling,
            max_new_tokens=config.max_new_tokens,
            request_id=row["window_id"],
        )

    def _audit_is_due(self, window: str) -> bool:
        """The sampled share, and the first caption of every worker, so that each run audits one at least."""
        share = self._run.config.audit.share
        if self._run.config.draft is None or not share:
            return False
        if self._audits_begun and not in_audit(window, share):
            return False
        self._audits_begun += 1
        return True


def _run_facts(run: CaptionRun, target_name: str, target_fingerprint: str) -> dict[str, Any]:
    """The columns that are equal in every row of a worker."""
    config = run.config
    return {
        "prompt": config.prompt,
        "prompt_hash": prompt_hash(config.prompt),
        "target_id": target_name,
        "target_fingerprint": target_fingerprint,
        "draft_id": checkpoint_name(config.draft) if config.draft else None,
        "draft_fingerprint": run.draft_fingerprint,
        "sampling": json.dumps(asdict(config.sampling)),
        "settings_fingerprint": run.settings_fingerprint,
        "schema_version": SCHEMA_VERSION,
    }


def _figures(completion: Completion) -> dict[str, Any]:
    """The columns that a completion fills."""
    stats, timings = completion.stats, completion.timings
    return {
        "caption": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "visual_tokens": completion.visual_tokens,
        "output_tokens": len(completion.token_ids),
        "rounds": stats.rounds,
        "drafted_tokens": stats.drafted,
        "in_doubt_tokens": stats.in_doubt,
        "tau": stats.tau if stats.rounds else None,
        "accept_hist": np.bincount(np.array(stats.accepted_per_round, dtype=np.int64)).tolist(),
        "t_vision_s": timings.vision_s,
        "t_prefill_s": timings.prefill_s,
        "t_drafter_prefill_s": timings.drafter_prefill_s,
        "t_draft_s": timings.draft_s,
        "t_verify_s": timings.verify_s,
        "t_decode_tokens_s": timings.decode_s,
    }


def _device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
