"""The registry of drafters, where a drafter is promoted or rolled back: origin, evaluation, and which one is in use.

A folder on any storage, written by one process at a time:

    drafters/<id>/config.json ...   the drafter, as `save_drafter` wrote it
    records/<id>.json               its `Record`
    promotions.json                 promoted ids, oldest first; the last one is in use
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.common.acceptance_rows import read_acceptance
from pipeline.common.storage import Folder
from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow
from sparrow_core.measure.paired_gains import LEAST_WINDOWS, Gain, gains, is_better

PROMOTIONS = "promotions.json"
DRAFTER_FILES = ("config.json", "model.safetensors", "README.md")
# Further files in the folder of a drafter that was trained here: how it was trained and measured.
PROVENANCE, EVALUATION, LEARNT = "provenance.json", "evaluation.json", "learnt.json"
JUDGED, TRAINING = "judged.json", "training.json"


@dataclass(frozen=True)
class Record:
    """A drafter's origin and evaluation."""

    id: str
    added_at: str
    target_fingerprint: str
    tokenizer_hash: str
    provenance: Mapping[str, Any]
    evaluation: Sequence[AcceptanceRow]


class NotBetterError(ConfigError):
    """A drafter is not promoted: its gain over the one in use is not significant, or too small."""


class Registry:
    """All recorded drafters of one target."""

    def __init__(self, url: str) -> None:
        self._folder = Folder(url)

    @property
    def url(self) -> str:
        """Absolute path or URL of the registry's folder."""
        return self._folder.url

    def add(self, drafter: Path, provenance: Mapping[str, Any], evaluation: Sequence[AcceptanceRow]) -> Record:
        """Copy a drafter's folder into the registry and record its evaluation.

        A drafter with the same config and weights is updated; it keeps its recorded provenance if none is given. Raises
        ConfigError for a folder that is no drafter, or a drafter of another target.
        """
        missing = [name for name in DRAFTER_FILES if not (drafter / name).is_file()]
        if missing:
            raise ConfigError(f"{drafter} is no drafter's folder: it has no {', '.join(missing)}")
        files = {name: (drafter / name).read_bytes() for name in DRAFTER_FILES}
        config = json.loads(files["config.json"])
        self.refuse_other_target(config["target_fingerprint"])
        drafter_id = _id(files)
        known = self.record(drafter_id) if drafter_id in self._ids() else None
        record = Record(
            id=drafter_id,
            added_at=known.added_at if known else _now(),
            target_fingerprint=config["target_fingerprint"],
            tokenizer_hash=config["tokenizer_hash"],
            provenance=provenance or (known.provenance if known else {}),
            evaluation=evaluation,
        )
        for name, content in files.items():
            self._folder.write(f"drafters/{record.id}/{name}", content)
        self._store(record)
        return record

    def refuse_other_target(self, fingerprint: str) -> None:
        """Raise ConfigError if the recorded drafters belong to another target."""
        for known in self._ids()[:1]:  # all are of one target
            if (have := self.record(known).target_fingerprint) != fingerprint:
                raise ConfigError(
                    f"the drafter is for target {fingerprint}, but {self._folder.url} holds drafters of {have}; "
                    "keep a registry for each target"
                )

    def update_evaluation(self, drafter: str, evaluation: Sequence[AcceptanceRow]) -> None:
        """Replace the evaluation on a drafter's record."""
        self._store(replace(self.record(drafter), evaluation=evaluation))

    def uses(self, drafter: Path) -> bool:
        """Whether the drafter in this folder is the one in use."""
        return self.in_use == _id({name: (drafter / name).read_bytes() for name in DRAFTER_FILES})

    def records(self) -> list[Record]:
        """All records, in the order in which the drafters were added."""
        return sorted(map(self.record, self._ids()), key=lambda record: record.added_at)

    def record(self, drafter: str) -> Record:
        """The record of the drafter with this id. Raises ConfigError if there is none."""
        content = self._folder.read(f"records/{drafter}.json")
        if content is None:
            known = ", ".join(self._ids()) or "none"
            raise ConfigError(f"{self._folder.url} holds no drafter {drafter!r}; there are: {known}")
        fields = json.loads(content)
        return Record(**fields | {"evaluation": [AcceptanceRow(**row) for row in fields["evaluation"]]})

    @property
    def promotions(self) -> list[str]:
        """Promoted ids, oldest first."""
        return list(json.loads(self._folder.read(PROMOTIONS) or b"[]"))

    def promote(self, drafter: str, margin: float = 0.0) -> list[Gain]:
        """Bring a drafter into use. Returns its gains in tau over the previous one, or [] if there is none to compare.

        Raises NotBetterError unless it is better by more than `margin` (`paired_gains.is_better`), and ConfigError if
        the two were not measured on the same windows.
        """
        record, promotions = self.record(drafter), self.promotions
        if promotions[-1:] == [drafter]:
            return []
        found = gains(record.evaluation, self.record(promotions[-1]).evaluation) if promotions else []
        if found and not is_better(found, margin):
            by_bucket = "; ".join(f"{gain.bucket}: {gain}" for gain in found)
            raise NotBetterError(
                f"drafter {drafter} stays out: its tau against that of {promotions[-1]}, by visual tokens, is "
                f"{by_bucket}; the longest must be above {margin:+.1%} with its whole interval, over {LEAST_WINDOWS} "
                "windows or more, and none below 0"
            )
        self._write([*promotions, drafter])
        return found

    def rollback(self) -> str:
        """Bring the previous drafter back into use. Returns its id. Raises ConfigError if there is none."""
        *before, last = self.promotions or [""]
        if not before:
            raise ConfigError(f"{self._folder.url} has no drafter to go back to{f' from {last}' if last else ''}")
        self._write(before)
        return before[-1]

    @property
    def in_use(self) -> str | None:
        """Id of the drafter in use; None if none was promoted."""
        return next(reversed(self.promotions), None)

    def files(self, drafter: str) -> str:
        """Path or URL of a drafter's folder."""
        return f"{self._folder.url}/drafters/{drafter}"

    def _store(self, record: Record) -> None:
        self._folder.write(f"records/{record.id}.json", (json.dumps(asdict(record), indent=1) + "\n").encode())

    def _ids(self) -> list[str]:
        return [name.removesuffix(".json") for name in self._folder.names("records") if name.endswith(".json")]

    def _write(self, promotions: Sequence[str]) -> None:
        self._folder.write(PROMOTIONS, (json.dumps(promotions) + "\n").encode())


def _id(files: Mapping[str, bytes]) -> str:
    return hashlib.sha256(files["config.json"] + files["model.safetensors"]).hexdigest()[:12]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def add_measured(registry: Registry, drafter: Path, evaluation: Path | None = None) -> Record:
    """Add the drafter in a folder together with its evaluation and, if the folder has it, its PROVENANCE.

    The evaluation is the drafter's rows in the file `evaluation`, by default the folder's EVALUATION. Raises
    ConfigError if the file is missing or has no row of this drafter.
    """
    file = evaluation or drafter / EVALUATION
    rows = [row for row in read_acceptance(file) if row.drafter == drafter.name]
    if not rows:
        raise ConfigError(f"{file} has no row of a drafter {drafter.name!r}; measure it with jobs/evaluate_draft.py")
    provenance = drafter / PROVENANCE
    return registry.add(drafter, json.loads(provenance.read_text()) if provenance.exists() else {}, rows)


def drafter_in_use(source: str) -> str:
    """Path or URL of a registry's drafter in use; any other `source` is returned unchanged.

    Raises ConfigError for a registry that has drafters but none in use.
    """
    registry = Registry(source)
    if drafter := registry.in_use:
        return registry.files(drafter)
    if waiting := registry.records():
        raise ConfigError(
            f"registry {registry.url} has no drafter in use, only {len(waiting)} on record: bring one into use with "
            "jobs/drafters.py promote"
        )
    return source
