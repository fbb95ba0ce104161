"""Identity of a checkpoint from its files, the memory that it needs, and provenance."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.captioning.config import CaptionConfig
from pipeline.common.checkpoints import checkpoint_identity, worker_path
from pipeline.common.memory import memory_need, refuse_too_little_memory
from pipeline.common.provenance import provenance
from sparrow_core.config import EngineConfig
from sparrow_core.decoding.target import TargetModel
from sparrow_core.errors import CheckpointError, ConfigError


def test_identity_follows_content_not_place(tiny_checkpoint: Path, other_checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    assert checkpoint_identity(str(copy)) == checkpoint_identity(str(tiny_checkpoint))
    assert checkpoint_identity(str(other_checkpoint)) != checkpoint_identity(str(tiny_checkpoint))


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "preprocessor_config.json", "chat_template.jinja"])
def test_identity_notices_every_file_that_shapes_captions(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (copy / name).write_text((copy / name).read_text() + " ")
    assert checkpoint_identity(str(copy)) != checkpoint_identity(str(tiny_checkpoint))


def test_identity_of_a_drafter_is_not_that_of_its_records(tmp_path: Path) -> None:
    copy = shutil.copytree(Path(__file__).parents[3] / "demo/weights/drafter", tmp_path / "copy")
    before = checkpoint_identity(str(copy))
    (copy / "training.json").write_text("{}")
    assert checkpoint_identity(str(copy)) == before
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert checkpoint_identity(str(copy)) != before


def test_identity_of_large_files_samples_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    content = bytearray(8 * 2**20)
    file.write_bytes(content)
    before = checkpoint_identity(str(tmp_path))
    content[-1] = 1
    file.write_bytes(content)
    assert checkpoint_identity(str(tmp_path)) != before


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="safetensors"):
        checkpoint_identity(str(tmp_path))
    with pytest.raises(CheckpointError, match="neither a checkpoint folder nor a hub id"):
        checkpoint_identity(str(tmp_path / "a" / "b"))


def test_workers_get_absolute_folders_and_hub_ids_as_they_are(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)
    assert worker_path(tiny_checkpoint.name) == str(tiny_checkpoint)
    assert worker_path("org/model") == "org/model"


def test_memory_need_is_that_of_the_loaded_model(tiny_checkpoint: Path, tiny_target: TargetModel) -> None:
    config = CaptionConfig(target=str(tiny_checkpoint), device="cpu", engine=EngineConfig(max_model_tokens=1000))
    need = memory_need(config)
    info = tiny_target.info
    assert need.kv_bytes == 2 * info.num_layers * info.num_kv_heads * info.head_dim * 4 * 1000
    half = memory_need(replace(config, dtype="bfloat16"))
    assert (2 * half.weights_bytes, 2 * half.kv_bytes) == (need.weights_bytes, need.kv_bytes)
    refuse_too_little_memory(need, need.total_bytes, config)
    with pytest.raises(ConfigError, match=r"fewer slots \(engine\.arena_tokens=0, engine\.max_model_tokens=1000\)"):
        refuse_too_little_memory(need, need.total_bytes - 1, config)


def test_provenance_names_the_installed_versions() -> None:
    assert provenance()["torch"] == torch.__version__
    assert {"sparrow_commit", "python", "ray", "transformers"} <= provenance().keys()
