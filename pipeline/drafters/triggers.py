"""Decides when a scheduled distillation is due: after enough new captions, or after any if tau has drifted down."""

import json
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

import pyarrow.compute as pc

from pipeline.captioning.ledger import SETTINGS, stored_rows
from pipeline.captioning.stored_windows import nearest_length
from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.registry import Record, Registry
from pipeline.common.storage import Folder
from pipeline.drafters.config import TriggerConfig
from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow

_COLUMNS = ["created_at", "draft_fingerprint", "rounds", "drafted_tokens", "tau", "visual_tokens", "sampling"]


@dataclass(frozen=True)
class Drift:
    """Tau over recent windows beside the tau expected of them from the drafter's recorded evaluation."""

    windows: int
    tau: float
    expected: float

    @property
    def drop(self) -> float:
        """The share by which tau lies below its expected value; negative if it lies above."""
        return 1 - self.tau / self.expected

    def __str__(self) -> str:
        return f"tau {self.tau:.2f} over {self.windows} recent windows, {self.drop:+.0%} below {self.expected:.2f}"


def min_new_captions(trigger: TriggerConfig, registry: Registry | None) -> tuple[int, Drift | None]:
    """How many new captions make a run due now, and the drift that was considered, if any."""
    drift = acceptance_drift(trigger, registry) if trigger.watch and registry else None
    has_worsened = drift is not None and drift.drop > trigger.max_drop
    return 1 if has_worsened else trigger.min_new_captions, drift


def acceptance_drift(trigger: TriggerConfig, registry: Registry) -> Drift | None:
    """Drift of the drafter in use over its recent windows in the run `trigger.watch`; None if it drafted none there.

    The governor chooses draft shapes in a captioning run, so no single shape tells what to expect. The expected tau of
    a window is therefore the lowest of all measured shapes, cut to the window's mean number of drafted tokens, at the
    nearest visual length and the run's temperature. Raises ConfigError if `trigger.watch` is no captioning run.
    """
    in_use = registry.in_use
    if in_use is None:
        return None
    record = registry.record(in_use)
    folder = Folder(trigger.watch or "")
    if folder.read(SETTINGS) is None:
        raise ConfigError(f"trigger.watch={trigger.watch} holds no captioning run: there is no {SETTINGS} in it")
    table = stored_rows(folder, _COLUMNS)
    identity = checkpoint_identity(registry.files(record.id))
    drafted = table.filter(pc.and_(pc.equal(table["draft_fingerprint"], identity), pc.greater(table["rounds"], 0)))
    rows = sorted(drafted.to_pylist(), key=lambda row: row["created_at"])[-trigger.recent_windows :]
    rounds = sum(row["rounds"] for row in rows)
    if not rounds:
        return None
    tau = sum(row["tau"] * row["rounds"] for row in rows) / rounds
    expected = sum(_expected(record, row) * row["rounds"] for row in rows) / rounds
    return Drift(len(rows), tau, expected)


def _expected(record: Record, row: dict[str, Any]) -> float:
    lengths = {int(measured.bucket) for measured in record.evaluation}
    nearest = str(nearest_length(lengths, row["visual_tokens"]))
    temperature = json.loads(row["sampling"])["temperature"]
    at_length = [measured for measured in record.evaluation if measured.bucket == nearest]
    comparable = [measured for measured in at_length if measured.temperature == temperature] or at_length
    return min(_limited_tau(measured, row["drafted_tokens"] / row["rounds"]) for measured in comparable)


def _limited_tau(measured: AcceptanceRow, drafted_per_round: float) -> float:
    """Tau of the same drafter if a round drafts at most `drafted_per_round` tokens, in a chain."""
    reached = accumulate(measured.depth_acceptance, mul)
    accepted = sum(share * min(1.0, max(0.0, drafted_per_round - depth)) for depth, share in enumerate(reached))
    return min(measured.tau, 1.0 + accepted)
