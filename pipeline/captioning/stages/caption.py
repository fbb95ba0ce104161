"""Stage 4, where a window becomes a row of the caption table: captioned by the worker's Engine, a share also audited.

Owns which decode modes the engine is asked for and which figures a row keeps. Knows nothing of batching or drafting.
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
class CaptionWorkerConfig:
    """Settings of a caption worker: the run's settings and their fingerprint, the drafter's identity, torch's thread
    count, and where captured hidden states go (None: nothing is captured)."""

    config: CaptionConfig
    settings_fingerprint: str
    draft_fingerprint: str | None
    threads: int
    capture: CaptureSink | None = None


class CaptionWindows:
    """Async callable from FRAMES rows to CAPTION rows. Calls may overlap; each awaits only its own rows."""

    def __init__(self, worker: CaptionWorkerConfig) -> None:
        torch.set_num_threads(worker.threads)
        self._engine = worker_engine(worker.config)
        info = self._engine.target.info
        self._worker = worker
        self._constants = _constant_columns(worker, info.name, info.fingerprint) | {
            "device": _device_name(info.device),
            "dtype": info.dtype_name,
            "batch_deviation": self._engine.batch_deviation,
        }
        self._audits_begun = 0
        self._capture = WindowCapture(self._engine, worker.capture) if worker.capture else None

    async def __call__(self, windows: pa.Table) -> pa.Table:
        return await fill_rows(windows, self._fill, CAPTION)

    async def _fill(self, row: Row) -> None:
        """Complete a row in place with its caption, or with the error of this or an earlier stage."""
        row.update(self._constants, audit="none", capture="none")
        if row["status"] is None:
            await self._caption(row)
        row["created_at"] = datetime.now(UTC)

    async def _caption(self, row: Row) -> None:
        with row_boundary(row):
            window, request = row["window_id"], self._request(row)
            caption = self._engine.default_mode(request.sampling)
            audit = [replace(caption, drafter=None)] if self._audit_is_due(window) else []
            samples: list[DecodeMode] = []
            if self._capture and in_capture(window, self._worker.config.capture.share):
                if self._capture.is_full:
                    row["capture"] = "over_quota"
                elif self._worker.config.capture.own_caption:
                    caption = replace(caption, recording=self._capture.recorder())
                else:
                    samples = self._capture.modes(window_number(window))
            completion, *others = await completions(self._engine, request, [caption, *audit, *samples])
            checked, sampled = others[: len(audit)], others[len(audit) :]
            row.update(_figures(completion), status="success")
            if checked:
                row["audit"] = "equal" if checked[0].token_ids == completion.token_ids else "diverged"
            if caption.recording:
                await self._store_hidden_states(row, [caption], [completion])
            elif samples:
                await self._store_hidden_states(row, samples, sampled)
                row["t_capture_s"] += sum(c.timings.decode_s for c in sampled)

    async def _store_hidden_states(self, row: Row, modes: Sequence[DecodeMode], written: Sequence[Completion]) -> None:
        """Store what the modes recorded. A failure here marks the capture as failed and leaves the caption intact."""
        assert self._capture is not None
        began = time.perf_counter()
        outcome: Row = {"capture": "failed", "window_id": row["window_id"], "source_uri": row["source_uri"]}
        with row_boundary(outcome):
            stored = await self._capture.store(row["window_id"], row["source_uri"], modes, written)
            outcome["capture"], outcome["captured_bytes"] = stored
        row.update(capture=outcome["capture"], captured_bytes=outcome.get("captured_bytes", 0))
        row["t_capture_s"] = time.perf_counter() - began

    def _request(self, row: Row) -> Request:
        config = self._worker.config
        return Request(
            messages=(Message("user", (frames_of(row), config.prompt)),),
            sampling=config.sampling,
            max_new_tokens=config.max_new_tokens,
            request_id=row["window_id"],
        )

    def _audit_is_due(self, window: str) -> bool:
        """Whether to audit a window: the sampled share, and each worker's first, so that a run audits at least one."""
        share = self._worker.config.audit.share
        if self._worker.config.draft is None or not share:
            return False
        if self._audits_begun and not in_audit(window, share):
            return False
        self._audits_begun += 1
        return True


def _constant_columns(worker: CaptionWorkerConfig, target_name: str, target_fingerprint: str) -> dict[str, Any]:
    """Columns that are equal in all rows of a worker."""
    config = worker.config
    return {
        "prompt": config.prompt,
        "prompt_hash": prompt_hash(config.prompt),
        "target_id": target_name,
        "target_fingerprint": target_fingerprint,
        "draft_id": checkpoint_name(config.draft) if config.draft else None,
        "draft_fingerprint": worker.draft_fingerprint,
        "sampling": json.dumps(asdict(config.sampling)),
        "settings_fingerprint": worker.settings_fingerprint,
        "schema_version": SCHEMA_VERSION,
    }


def _figures(completion: Completion) -> dict[str, Any]:
    """Columns that are filled from a completion."""
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
