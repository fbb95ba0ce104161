"""What makes a distillation due: counts by hand, on tables and registries as the jobs write them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.captioning.stages.write import CAPTIONS, parquet_bytes
from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.registry import Registry
from pipeline.common.rows import CAPTION, to_table
from pipeline.common.storage import Folder
from pipeline.drafters.config import TriggerConfig
from pipeline.drafters.triggers import min_new_captions
from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import WindowAcceptance, summarise

MEASURED_TAU = {"64": 4.0, "6000": 3.0}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with a drafter in use, measured as MEASURED_TAU says by a chain, and better by a tree."""
    folder = tmp_path / "drafter"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"target_fingerprint": "t", "tokenizer_hash": "h"}))
    (folder / "model.safetensors").write_text("weights")
    (folder / "README.md").write_text("a drafter")
    rows = [
        summarise("drafter", shape, bucket, [window(tau * factor)] * 3, temperature)
        for shape, factor, temperature in (("chain", 1.0, 0.0), ("tree", 1.5, 0.0), ("chain", 0.8, 1.0))
        for bucket, tau in MEASURED_TAU.items()
    ]
    made = Registry(str(tmp_path / "registry"))
    made.promote(made.add(folder, {}, rows).id)
    return made


def window(tau: float) -> WindowAcceptance:
    """100 rounds, each of which accepts all of a draft of 10 or none, so that tau is this, and a last one, which does
    not count."""
    full = round(10 * (tau - 1))
    return WindowAcceptance(64, 100, 100 + 10 * full, (10,) * full + (0,) * (101 - full), 0.0, 1)


def captioned(
    folder: Path, drafter: str, taus: list[tuple[int, float]], drafted: int = 10, rounds: list[int] | None = None
) -> str:
    """A greedy captioning run whose windows have these visual tokens and tau, the last one the newest, so many drafted
    tokens in a round, and so many rounds (10 each)."""
    rows = [
        {
            "window_id": str(number), "draft_fingerprint": drafter, "rounds": count, "tau": tau,
            "visual_tokens": visual, "drafted_tokens": count * drafted, "sampling": json.dumps({"temperature": 0.0}),
            "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number),
        }
        for number, ((visual, tau), count) in enumerate(zip(taus, rounds or [10] * len(taus), strict=True))
    ]  # fmt: skip
    output = Folder(str(folder))
    output.write("settings.json", b"{}")
    output.write(f"{CAPTIONS}/part-00001-00000.parquet", parquet_bytes(to_table(rows, CAPTION)))
    return str(folder)


def in_use(registry: Registry) -> str:
    return checkpoint_identity(registry.files(registry.promotions[-1]))


def test_enough_that_is_new_makes_a_run_due() -> None:
    assert min_new_captions(TriggerConfig(min_new_captions=500), None) == (500, None)


@pytest.mark.parametrize(("tau", "least"), [(3.9, 500), (3.5, 1)])
def test_a_worse_tau_makes_it_due_sooner(registry: Registry, tmp_path: Path, tau: float, least: int) -> None:
    run = captioned(tmp_path / "run", in_use(registry), [(70, tau)] * 4)
    found, drift = min_new_captions(TriggerConfig(500, run), registry)
    assert found == least and drift is not None
    assert (drift.windows, drift.tau, drift.expected) == (4, pytest.approx(tau), pytest.approx(4.0))


def test_what_is_expected_goes_by_visual_length(registry: Registry, tmp_path: Path) -> None:
    run = captioned(tmp_path / "run", in_use(registry), [(70, 4.0), (4000, 3.0)])
    _, drift = min_new_captions(TriggerConfig(500, run), registry)
    assert drift is not None and drift.expected == pytest.approx(3.5) and drift.drop == pytest.approx(0.0)


def test_a_drop_of_just_the_limit_is_none_yet(registry: Registry, tmp_path: Path) -> None:
    run = captioned(tmp_path / "run", in_use(registry), [(70, 3.0)] * 4)
    _, drift = min_new_captions(TriggerConfig(500, run), registry)
    assert drift is not None and drift.drop == pytest.approx(0.25)
    for max_drop, least in ((drift.drop, 500), (drift.drop - 1e-9, 1)):
        assert min_new_captions(TriggerConfig(500, run, max_drop), registry)[0] == least


def test_windows_weigh_by_their_rounds(registry: Registry, tmp_path: Path) -> None:
    run = captioned(tmp_path / "run", in_use(registry), [(70, 4.0), (4000, 2.0)], rounds=[30, 10])
    _, drift = min_new_captions(TriggerConfig(500, run), registry)
    assert drift is not None
    assert (drift.tau, drift.expected) == (pytest.approx((30 * 4 + 10 * 2) / 40), pytest.approx((30 * 4 + 10 * 3) / 40))


def test_what_is_expected_goes_by_how_much_is_drafted(registry: Registry, tmp_path: Path) -> None:
    run = captioned(tmp_path / "run", in_use(registry), [(70, 1.6)] * 4, drafted=2)
    _, drift = min_new_captions(TriggerConfig(500, run), registry)
    # At 64 visual tokens a chain's 10 tokens are accepted in 30 % of the rounds, else none: 2 of them bring 0.6.
    assert drift is not None and drift.expected == pytest.approx(1.6) and drift.drop == pytest.approx(0.0)


def test_only_recent_windows_of_the_drafter_in_use_count(registry: Registry, tmp_path: Path) -> None:
    run = captioned(tmp_path / "run", in_use(registry), [(64, 1.0)] * 5 + [(64, 4.0)] * 3)
    _, drift = min_new_captions(TriggerConfig(500, run, recent_windows=3), registry)
    assert drift is not None and (drift.windows, drift.tau) == (3, pytest.approx(4.0))
    strange = captioned(tmp_path / "strange", "another drafter", [(64, 1.0)] * 5)
    assert min_new_captions(TriggerConfig(500, strange), registry) == (500, None)


def test_a_watched_folder_must_be_a_run(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trigger\.watch=.* holds no captioning run"):
        min_new_captions(TriggerConfig(watch=str(tmp_path)), registry)
