"""Online capture against stored hidden states of the same captions: training must be bit-equal."""

import asyncio
import pickle
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from demo.windows import DemoWindows
from pipeline.captioning.stages.capture import CaptureSink
from pipeline.common.worker_engine import WorkerModels
from pipeline.drafters.capture_graph import _window_of_number, numbered_window_id
from pipeline.drafters.capture_stage import CaptureWindows, CaptureWorkerConfig
from pipeline.drafters.config import DistillRunConfig
from pipeline.drafters.hidden_state_sources import (
    HiddenStateSource,
    online_hidden_states,
    stored_hidden_states,
)
from pipeline.drafters.training import drafter_geometry
from sparrow_core.config import CaptureConfig, DistillConfig
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.distill.online import OnlineWindow
from sparrow_core.distill.shards import TABLES_FILE, read_shard, shard_file, shard_name
from sparrow_core.distill.trainer import Hooks, StepMetrics, Trainer
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.drafters.network import SparrowDrafterModel
from sparrow_core.errors import CheckpointError, ConfigError
from sparrow_core.targets.loading import load_target

# The passes of this target are batch-invariant, so that online capture can be bit-equal.
DEMO = Path(__file__).parents[3] / "demo" / "weights"
NUM_WINDOWS = 3
KEEP = CaptureConfig(captions_per_window=2, max_new_tokens=12, keep_embeddings=True)
REQUESTS = partial(DemoWindows("train", (64,), 7).request, max_new_tokens=KEEP.max_new_tokens)
WINDOWS = [OnlineWindow(numbered_window_id(n), n, partial(REQUESTS, n)) for n in range(NUM_WINDOWS)]


@pytest.fixture(scope="module")
def info() -> TargetInfo:
    return load_target(str(DEMO / "target"), device="cpu").info


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of windows that were captured one at a time and without a drafter."""
    folder = tmp_path_factory.mktemp("states")
    worker = CaptureWorkerConfig(
        WorkerModels(str(DEMO / "target"), device="cpu"), CaptureSink(KEEP, str(folder), "s"), threads=1
    )
    stage = CaptureWindows(worker, partial(_window_of_number, requests=REQUESTS))
    for number in range(NUM_WINDOWS):
        row = {"window_id": numbered_window_id(number), "number": number}
        (captured,) = asyncio.run(stage(pa.Table.from_pylist([row]))).to_pylist()
        assert captured["status"] == "success", captured["error"]
    return folder


def config(**changes: object) -> DistillRunConfig:
    settings = {"target": str(DEMO / "target"), "device": "cpu", "num_windows": NUM_WINDOWS, "capture": KEEP}
    train = DistillConfig(steps=3, batch_size=4, recursions=1, warmup_steps=1, bridge_share=0.5)
    return DistillRunConfig(**settings | {"train": train} | changes)  # type: ignore[arg-type]


def trained(run: DistillRunConfig, info: TargetInfo, source: HiddenStateSource) -> list[StepMetrics]:
    """Metrics of the steps of a training on the source as a worker would unpickle it."""
    steps: list[StepMetrics] = []
    copy: HiddenStateSource = pickle.loads(pickle.dumps(source))
    with copy.open(torch.device("cpu")) as (windows, tables):
        assert len(windows) == sum(source.num_captions.values()) == NUM_WINDOWS * KEEP.captions_per_window
        torch.manual_seed(0)
        drafter = SparrowDrafterModel(drafter_geometry(run, info, copy.bridge_layer))
        Trainer(UnrolledDrafter(drafter, tables, run.train), windows, run.train, hooks=Hooks(steps.append)).run()
    return steps


@pytest.mark.parametrize("sees", ["text", "embeddings"])
def test_online_equals_stored(sees: str, info: TargetInfo, stored: Path) -> None:
    """Bit for bit, although online captions are decoded in batches and by speculative decoding."""
    on_store = trained(config(sees=sees), info, stored_hidden_states(config(sees=sees), str(stored), info))
    online = config(sees=sees, online=True, draft=str(DEMO / "drafter"))
    source = online_hidden_states(online, WINDOWS, "online-demo", info)
    assert trained(online, info, source) == on_store
    assert len({step.loss for step in on_store}) == 3


def test_online_sources_are_told_apart_by_windows_and_target(info: TargetInfo) -> None:
    """A subset of the windows keeps its digest when more windows come; another target changes the digest."""
    run = config(online=True)
    few, all_of_them = (online_hidden_states(run, WINDOWS[:count], "origin", info) for count in (2, 3))
    assert few.digest != all_of_them.digest and few.bridge_layer == info.num_layers // 2
    assert online_hidden_states(run, WINDOWS, "origin", info, list(few.num_captions)).digest == few.digest
    assert online_hidden_states(run, WINDOWS, "origin", replace(info, fingerprint="other")).digest != all_of_them.digest


def test_stored_hidden_states_may_lie_behind_a_url(
    info: TargetInfo, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where copies are kept
    source = stored_hidden_states(config(), stored.as_uri(), info)
    with source.open(torch.device("cpu")) as (windows, _):
        assert len(windows) == sum(source.num_captions.values()) == 6


def test_a_shard_that_was_deleted_behind_the_url_is_not_trained_on(
    info: TargetInfo, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remote = tmp_path / "remote"
    shutil.copytree(stored, remote)
    stored_hidden_states(config(), remote.as_uri(), info)
    gone, damaged, _ = sorted(remote.glob(shard_name("*")))
    gone.unlink()
    assert len(stored_hidden_states(config(), remote.as_uri(), info).num_captions) == NUM_WINDOWS - 1
    damaged.write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=f"{damaged.as_uri()} is damaged"):
        stored_hidden_states(config(), remote.as_uri(), info)


def test_settings_that_contradict_each_other_are_refused(info: TargetInfo, stored: Path, tmp_path: Path) -> None:
    """They are refused before any training."""
    with pytest.raises(ConfigError, match="online=true stores and reads no hidden states"):
        config(online=True, states="out/states")
    with pytest.raises(ConfigError, match="keep_embeddings=true, or online=true"):
        config(sees="embeddings", capture=CaptureConfig())
    stored_hidden_states(config(sees="summary"), str(stored), info)
    shutil.copy(stored / TABLES_FILE, tmp_path)
    window, header = read_shard(stored / shard_name(numbered_window_id(0)))
    without = replace(window, embeddings_MD=window.embeddings_MD[:0])
    (tmp_path / shard_name("0")).write_bytes(shard_file(without, header))
    shutil.copy(stored / shard_name(numbered_window_id(1)), tmp_path)  # which has them
    with pytest.raises(ConfigError, match=r"sees=summary needs visual embeddings, and .* without them"):
        stored_hidden_states(config(sees="summary"), str(tmp_path), info)
