"""A trained drafter's folder: written with its origin, measured, put on record, and promoted if it is better.

OUTPUT/drafter/config.json ...     the drafter, as `save_drafter` wrote it
OUTPUT/drafter/provenance.json     settings, versions and hidden states that it was made from
OUTPUT/drafter/learnt.json         captions that it learnt from, counted by window
OUTPUT/drafter/evaluation.json     acceptance on held-out windows
OUTPUT/drafter/judged.json         what the registry made of it
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.common.acceptance_rows import store_acceptance
from pipeline.common.provenance import provenance as versions
from pipeline.common.registry import (
    EVALUATION,
    JUDGED,
    LEARNT,
    PROVENANCE,
    NotBetterError,
    Registry,
    add_measured,
)
from pipeline.common.storage import Folder
from pipeline.drafters.config import DistillRunConfig
from pipeline.drafters.hidden_state_sources import HiddenStateSource
from pipeline.drafters.origin import Origin
from pipeline.drafters.report import drafter_card
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.drafters.network import SparrowDrafterModel
from sparrow_core.measure.acceptance import AcceptanceRow


def publish(folder: Path, drafter: SparrowDrafterModel, origin: Origin, source: HiddenStateSource, run: str) -> int:
    """Write a drafter's folder with its origin, in place of the one that is there -> captions that it learnt from."""
    new, config = folder.with_name(".drafter-new"), origin.config
    num_captions = sum(source.num_captions.values())
    save_drafter(new, drafter, drafter_card(config, num_captions, ()))
    made_from = {
        "run": run,
        "recipe": origin.recipe,
        "states": {"origin": origin.place, "digest": source.digest, "captions": num_captions},
    }
    (new / PROVENANCE).write_text(json.dumps(asdict(config) | made_from | {"versions": versions()}, indent=1) + "\n")
    (new / LEARNT).write_text(json.dumps(dict(source.num_captions)) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
    return num_captions


def captions_learnt(folder: Path, recipe: str) -> dict[str, int]:
    """Captions that the drafter of a folder learnt from, counted by window; none if its recipe is another."""
    provenance, windows = folder / PROVENANCE, folder / LEARNT
    if not windows.exists() or json.loads(provenance.read_text())["recipe"] != recipe:
        return {}
    return dict(json.loads(windows.read_text()))


def store_evaluation(folder: Path, config: DistillRunConfig, num_captions: int, rows: Sequence[AcceptanceRow]) -> None:
    """Write what was measured of a drafter into its folder and its card."""
    own = [row for row in rows if row.drafter == folder.name]
    store_acceptance(folder / EVALUATION, own)
    (folder / "README.md").write_text(drafter_card(config, num_captions, own))


def put_on_record(folder: Path, registry: Registry) -> str:
    """Add a measured drafter to a registry, promote it if it is better than the one in use, and note the outcome in its
    folder -> the outcome, for people."""
    added = add_measured(registry, folder)
    try:
        registry.promote(added.id)
        outcome = f"drafter {added.id} is in use in {registry.url}"
    except NotBetterError as error:
        outcome = str(error)
    judged = json.dumps({"registry": registry.url, "id": added.id, "outcome": outcome}) + "\n"
    Folder(str(folder)).write(JUDGED, judged.encode())
    return outcome


def is_concluded(folder: Path, registry: Registry | None) -> bool:
    """Whether the drafter of a folder was measured and, if there is a registry, judged by it."""
    return (folder / EVALUATION).exists() and (registry is None or is_judged(folder, registry))


def is_judged(folder: Path, registry: Registry) -> bool:
    """Whether `put_on_record` has ended for this drafter and registry. What was done there since, such as a rollback,
    is not undone."""
    note = folder / JUDGED
    return note.exists() and json.loads(note.read_text())["registry"] == registry.url
