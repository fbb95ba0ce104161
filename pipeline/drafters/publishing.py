"""Publishes a trained drafter: writes its folder and evaluation, registers it, and promotes it if it is better.

OUTPUT/drafter/config.json ...     the drafter, as `save_drafter` wrote it
OUTPUT/drafter/provenance.json     settings, versions and hidden states that it was trained with
OUTPUT/drafter/learnt.json         captions that it was trained on, counted by window
OUTPUT/drafter/evaluation.json     acceptance on held-out windows
OUTPUT/drafter/judged.json         the registry's decision: promoted or not, and why
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
    """Write a drafter's folder with its provenance, replacing an earlier one -> number of training captions."""
    new, config = folder.with_name(".drafter-new"), origin.config
    num_captions = sum(source.num_captions.values())
    save_drafter(new, drafter, drafter_card(config, num_captions, ()))
    trained_with = {
        "run": run,
        "recipe": origin.recipe,
        "states": {"origin": origin.location, "digest": source.digest, "captions": num_captions},
    }
    provenance = asdict(config) | trained_with | {"versions": versions()}
    (new / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n")
    (new / LEARNT).write_text(json.dumps(dict(source.num_captions)) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
    return num_captions


def captions_learnt(folder: Path, recipe: str) -> dict[str, int]:
    """Captions that the folder's drafter was trained on, counted by window; empty if it has another recipe."""
    provenance, windows = folder / PROVENANCE, folder / LEARNT
    if not windows.exists() or json.loads(provenance.read_text())["recipe"] != recipe:
        return {}
    return dict(json.loads(windows.read_text()))


def store_evaluation(folder: Path, config: DistillRunConfig, num_captions: int, rows: Sequence[AcceptanceRow]) -> None:
    """Write a drafter's evaluation into its folder and its model card."""
    own = [row for row in rows if row.drafter == folder.name]
    store_acceptance(folder / EVALUATION, own)
    (folder / "README.md").write_text(drafter_card(config, num_captions, own))


def register_and_promote(folder: Path, registry: Registry) -> str:
    """Add a measured drafter to a registry and promote it if it is better than the one in use -> the decision as text.

    The decision is also written to the drafter's folder.
    """
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
    """Whether the folder's drafter was measured and, if there is a registry, judged by it."""
    return (folder / EVALUATION).exists() and (registry is None or is_judged(folder, registry))


def is_judged(folder: Path, registry: Registry) -> bool:
    """Whether `register_and_promote` has finished for this drafter and registry.

    It is then not called again, so that a later rollback in the registry is not undone.
    """
    decision = folder / JUDGED
    return decision.exists() and json.loads(decision.read_text())["registry"] == registry.url
