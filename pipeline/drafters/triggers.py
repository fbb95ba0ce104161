"""When a scheduled distillation is due: enough new to learn from, or any if the drafter in use has become worse."""

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
    """Tau over recent windows, and what it was measured to be at their visual lengths."""

    windows: int
    tau: float
    expected: float

    @property
    def drop(self) -> float:
        """By which share tau has fallen."""
        return 1 - self.tau / self.expected

    def __str__(self) -> str:
        return f"tau {self.tau:.2f} over {self.windows} recent windows, {self.drop:+.0%} below {self.expected:.2f}"


def least_new_captions(trigger: TriggerConfig, registry: Registry | None) -> tuple[int, Drift | None]:
    """How many new captions make a run due now, and the drift that was looked at."""
    drift = acceptance_drift(trigger, registry) if trigger.watch and registry else None
    has_worsened = drift is not None and drift.drop > trigger.max_drop
    return 1 if has_worsened else trigger.min_new_captions, drift


def acceptance_drift(trigger: TriggerConfig, registry: Registry) -> Drift | None:
    """Recent tau of the drafter in use; None where it has no such window yet. Raises ConfigError for no such run.

    A captioning run leaves the shape of drafts to the governor, so what is expected of a window is the least that any
    shape was measured at for drafts of that many tokens, at the nearest visual length and the run's temperature.
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
    mine = table.filter(pc.and_(pc.equal(table["draft_fingerprint"], identity), pc.greater(table["rounds"], 0)))
    rows = sorted(mine.to_pylist(), key=lambda row: row["created_at"])[-trigger.recent_windows :]
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
    measured = [found for found in record.evaluation if found.bucket == nearest]
    alike = [found for found in measured if found.temperature == temperature]
    return min(_tau_of(found, row["drafted_tokens"] / row["rounds"]) for found in alike or measured)


def _tau_of(measured: AcceptanceRow, drafted: float) -> float:
    """Tau of the same drafter where rounds draft no more than so many tokens."""
    reached = accumulate(measured.depth_acceptance, mul)
    within = sum(share * min(1.0, max(0.0, drafted - depth)) for depth, share in enumerate(reached))
    return min(measured.tau, 1.0 + within)
