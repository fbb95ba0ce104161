"""Files that an earlier version wrote (`tests/data/existing`) are read: whatever is renamed in the code, they are not.

They were written on a machine whose videos lay in /archive; nothing is opened there.
"""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from jobs.demo_distillation import DistillJobConfig
from pipeline.captioning.config import caption_config
from pipeline.captioning.ledger import Ledger
from pipeline.captioning.run import caption_settings
from pipeline.captioning.stored_windows import CaptionRunTable
from pipeline.common.checkpoints import worker_draft
from pipeline.common.registry import Registry
from pipeline.common.settings import build_config, read_settings
from pipeline.common.storage import Folder
from pipeline.drafters.config import capture_settings, run_name
from sparrow_core.distill.shards import read_shard

ROOT = Path(__file__).parents[2]
EXISTING = ROOT / "tests/data/existing"
DEMO = {"target": str(ROOT / "demo/weights/target")}
ARCHIVE = [f"/archive/sample-{number}.mp4" for number in range(6)]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A copy of a captioning run's output folder."""
    return Path(shutil.copytree(EXISTING / "captions_run", tmp_path / "run"))


def test_a_captioning_run_is_complete_under_the_same_settings(run_folder: Path) -> None:
    settings = caption_settings(caption_config(None, [], {}, DEMO))
    ledger = Ledger(Folder(str(run_folder)), settings)
    assert ledger.remaining(ARCHIVE, retry_errors=True).sources == ()
    assert set(ledger.table(["status"])["status"].to_pylist()) == {"success"}


def test_superseded_rows_of_an_earlier_version_are_dropped(run_folder: Path) -> None:
    """A part is rewritten with the columns that it has."""
    (part,) = (run_folder / "captions").glob("part-*")
    shutil.copy(part, part.with_name(part.name.replace("part-00001", "part-00002")))
    ledger = Ledger(Folder(str(run_folder)), caption_settings(caption_config(None, [], {}, DEMO)))
    assert len(list((run_folder / "captions").glob("part-*"))) == 1
    assert ledger.table(["window_id"]).num_rows == len(ARCHIVE)


def test_a_captioning_run_can_be_audited(run_folder: Path) -> None:
    rows = CaptionRunTable(str(run_folder)).rows
    assert sorted(uri for uri, _, _ in rows) == ARCHIVE
    assert all(len(row["token_ids"]) > 10 for row in rows.values())


def test_a_registry_has_its_drafter_in_use() -> None:
    registry = Registry(str(EXISTING / "registry"))
    (record,) = registry.records()
    assert registry.in_use == record.id == "47e023077bbc"
    assert [(row.bucket, row.draft) for row in record.evaluation] == [("64", "tree of 25"), ("512", "tree of 25")]
    assert worker_draft(str(EXISTING / "registry")) == str(EXISTING / "registry/drafters" / record.id)


def test_captured_states_are_read() -> None:
    window, header = read_shard(EXISTING / "shard-window.safetensors")
    assert header.source_uri == "/archive/clip.mp4" and header.bridge_layer == 1
    (caption,) = window.captions
    assert caption.token_ids_C.tolist() == [326, 37, 620, 398, 285, 284, 490, 284]
    assert caption.hidden_CD.shape == (7, 64) and caption.hidden_CD.dtype == torch.float32


@pytest.mark.parametrize(
    ("file", "captured"), [("distill_demo.yaml", "6921cdc1ee887abc"), ("distill_archive.yaml", "f5b14e1d1fd87f75")]
)
def test_a_training_goes_on_under_its_name(file: str, captured: str) -> None:
    """What runs and captures are called follows from their settings: a begun one is found again."""
    config = build_config(DistillJobConfig, read_settings(ROOT / "jobs/configs" / file))
    assert run_name(config, "states") == "distill-fbdd4364c9100117"
    assert capture_settings(config, asdict(config.windows)) == captured
