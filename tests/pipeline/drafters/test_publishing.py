"""What becomes of a drafter that was measured: put on record, promoted only if it is better, and judged once."""

import json
from pathlib import Path

from pipeline.common.acceptance_rows import store_acceptance
from pipeline.common.registry import EVALUATION, JUDGED, Registry
from pipeline.drafters.publishing import is_concluded, is_judged, register_and_promote
from sparrow_core.measure.acceptance import WindowAcceptance, summarise


def measured_drafter(folder: Path, rounds: int) -> Path:
    """A folder of a drafter that needed so many rounds for the same tokens of each of eight windows."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"target_fingerprint": "t", "tokenizer_hash": "h"}))
    (folder / "model.safetensors").write_text(folder.name)
    (folder / "README.md").write_text("a drafter")
    windows = [WindowAcceptance(64, rounds, 600, (0,), 0.0, 601)] * 8
    store_acceptance(folder / EVALUATION, [summarise(folder.name, "chain", "64", windows)])
    return folder


def test_a_drafter_goes_into_use_if_it_is_better(tmp_path: Path) -> None:
    """Every one is put on record, and its folder notes the outcome."""
    registry, ids = Registry(str(tmp_path / "registry")), {}
    for name, rounds, outcome in (
        ("first", 100, "is in use"), ("worse", 110, "stays out"), ("better", 90, "is in use"),
    ):  # fmt: skip
        folder = measured_drafter(tmp_path / name, rounds)
        assert outcome in register_and_promote(folder, registry)
        ids[name] = json.loads((folder / JUDGED).read_text())["id"]
    assert registry.promotions == [ids["first"], ids["better"]]
    assert {record.id for record in registry.records()} == set(ids.values())


def test_a_drafter_is_judged_once_by_each_registry(tmp_path: Path) -> None:
    registry, other = (Registry(str(tmp_path / name)) for name in ("registry", "other"))
    folder = measured_drafter(tmp_path / "drafter", 100)
    assert is_concluded(folder, None) and not is_concluded(folder, registry)
    register_and_promote(folder, registry)
    assert is_judged(folder, registry) and not is_judged(folder, other)
    (folder / EVALUATION).unlink()
    assert not is_concluded(folder, registry), "a drafter that was not measured"
