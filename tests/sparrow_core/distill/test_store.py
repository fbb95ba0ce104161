"""Windows survive the disk; a store of another target, or an unfinished one, is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sparrow_core.distill.store import StateStore, has_shard, save_shard, save_tables, seal, shard_name
from sparrow_core.errors import CheckpointError
from tests.sparrow_core.distill.toys import HEADER, random_tables, random_window


def written_store(folder: Path) -> list:
    windows = [random_window(seed, 2 + seed, 5, bridge=seed) for seed in range(5)]
    save_tables(folder, random_tables(), HEADER)
    save_shard(folder, 0, windows[:3], HEADER)
    save_shard(folder, 1, windows[3:], HEADER)
    seal(folder, 2, HEADER)
    return windows


def test_round_trip(tmp_path: Path) -> None:
    windows = written_store(tmp_path)
    store = StateStore(tmp_path, fingerprint="target-a")
    assert len(store) == 5
    for window, mask, read in zip(windows, store.caption_masks(), store, strict=False):
        assert torch.equal(read.token_ids_L.long(), window.token_ids_L)
        assert torch.equal(read.is_caption_L, window.is_caption_L) and torch.equal(mask, window.is_caption_L)
        # float16 keeps 11 bits of a value, bfloat16 8.
        torch.testing.assert_close(read.states_LD.float(), window.states_LD, rtol=2**-10, atol=1e-6)
        torch.testing.assert_close(read.bridge_MD.float(), window.bridge_MD, rtol=2**-7, atol=1e-6)
    assert torch.equal(store.tables().lm_head_VD, random_tables().lm_head_VD)


def test_another_target_is_refused(tmp_path: Path) -> None:
    written_store(tmp_path)
    with pytest.raises(CheckpointError, match="captured from target target-a, not target-b"):
        StateStore(tmp_path, fingerprint="target-b")
    other = dataclasses.replace(HEADER, settings="another prompt")
    with pytest.raises(CheckpointError, match="captured with settings='s', not 'another prompt'"):
        has_shard(tmp_path, 0, other)


def test_an_unfinished_capture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete capture"):
        StateStore(tmp_path)
    save_shard(tmp_path, 0, [random_window(0, 2, 3)], HEADER)
    with pytest.raises(CheckpointError, match=f"lacks 1 of 2 shards, first {shard_name(1)}"):
        seal(tmp_path, 2, HEADER)
