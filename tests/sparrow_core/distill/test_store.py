"""Windows are read from disk as they were written, bit for bit; damaged files and other targets' are refused."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sparrow_core.distill.hidden_states import CapturedWindow, TrainingExample, training_example
from sparrow_core.distill.shards import TABLES_FILE, StoreHeader, read_shard, shard_file, shard_name, tables_file
from sparrow_core.distill.store import HiddenStateStore
from sparrow_core.errors import CheckpointError
from tests.sparrow_core.distill.toys import HEADER, captured_window, random_tables

WINDOWS = [captured_window(seed, 2 + seed, [5, 3 + seed], bridge=seed) for seed in range(3)]


def write(folder: Path, number: int, window: CapturedWindow, header: StoreHeader = HEADER) -> Path:
    path = folder / shard_name(str(number))
    path.write_bytes(shard_file(window, header))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of three windows with two captions each."""
    (tmp_path / TABLES_FILE).write_bytes(tables_file(random_tables(), HEADER))
    for number, window in enumerate(WINDOWS):
        write(tmp_path, number, window)
    return tmp_path


def assert_equal(read: TrainingExample, written: TrainingExample) -> None:
    for name, tensor in vars(written).items():
        assert torch.equal(getattr(read, name), tensor), name


def test_round_trip(folder: Path) -> None:
    store = HiddenStateStore(folder, fingerprint="target-a")
    expected = [training_example(window, number) for window in WINDOWS for number in range(2)]
    assert len(store) == 6
    for read, written in zip(store.examples(range(6)), expected, strict=True):
        assert_equal(read, written)
    assert_equal(store.examples([4, 1])[0], expected[4])
    assert store.has_embeddings
    assert torch.equal(store.tables().lm_head_VD, random_tables().lm_head_VD)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_nothing_is_rounded(tmp_path: Path, dtype: torch.dtype) -> None:
    (caption,) = captured_window(1, 3, [4]).captions
    window = captured_window(1, 3, [4])
    window = dataclasses.replace(
        window,
        prompt_hidden_TD=window.prompt_hidden_TD.to(dtype),
        bridge_UD=window.bridge_UD.to(dtype),
        embeddings_MD=window.embeddings_MD.to(dtype),
        captions=(dataclasses.replace(caption, hidden_CD=caption.hidden_CD.to(dtype)),),
    )
    read, header = read_shard(write(tmp_path, 0, window))
    assert header == HEADER and read.bridge_UD.dtype == dtype
    assert_equal(training_example(read, 0), training_example(window, 0))


def test_the_digest_tells_stores_apart(folder: Path) -> None:
    before = HiddenStateStore(folder).digest
    assert before == HiddenStateStore(folder).digest
    write(folder, 3, WINDOWS[0])
    assert HiddenStateStore(folder).digest != before


def test_another_target_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="captured from target target-a, not target-b"):
        HiddenStateStore(folder, fingerprint="target-b")
    write(folder, 3, WINDOWS[0], dataclasses.replace(HEADER, fingerprint="target-b"))
    with pytest.raises(CheckpointError, match=r"shard-3.*fingerprint='target-b', but shard-0.*'target-a'.*separate"):
        HiddenStateStore(folder)


def test_another_bridge_layer_is_refused_and_other_settings_are_not(folder: Path) -> None:
    write(folder, 3, WINDOWS[0], dataclasses.replace(HEADER, settings="another prompt"))
    assert len(HiddenStateStore(folder)) == 8
    write(folder, 4, WINDOWS[0], dataclasses.replace(HEADER, bridge_layer=3))
    with pytest.raises(CheckpointError, match="bridge_layer=3, but shard-0"):
        HiddenStateStore(folder)


def test_a_truncated_shard_is_refused(folder: Path) -> None:
    shard = folder / shard_name("1")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"shard-1\.safetensors is damaged .* capture its window again"):
        HiddenStateStore(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no captured window"):
        HiddenStateStore(tmp_path)
    write(tmp_path, 0, WINDOWS[0])
    with pytest.raises(CheckpointError, match=f"lacks {TABLES_FILE}"):
        HiddenStateStore(tmp_path)


def test_captions_too_short_to_learn_from_are_refused(tmp_path: Path) -> None:
    (tmp_path / TABLES_FILE).write_bytes(tables_file(random_tables(), HEADER))
    write(tmp_path, 0, captured_window(1, 5, [1]))
    with pytest.raises(CheckpointError, match="nothing can be learnt"):
        HiddenStateStore(tmp_path)


def test_another_schema_is_refused(folder: Path) -> None:
    write(folder, 3, WINDOWS[0], dataclasses.replace(HEADER, schema_version=1))
    with pytest.raises(CheckpointError, match="has schema 1, this version reads 2"):
        HiddenStateStore(folder)


def test_a_store_may_be_held_to_the_shards_that_were_there(folder: Path) -> None:
    before = HiddenStateStore(folder)
    write(folder, 3, WINDOWS[0])
    held = HiddenStateStore(folder, names=before.names)
    assert len(held) == len(before) == 6 and held.digest == before.digest
    assert HiddenStateStore(folder).digest != before.digest
