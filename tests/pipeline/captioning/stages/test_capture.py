"""Hidden states captured beside captioning and in a capture of their own: real files, a tiny real model, no Ray."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from demo.world.video import write_mp4
from pipeline.captioning.config import AuditConfig, CaptionCaptureConfig, CaptionConfig, SegmentConfig
from pipeline.captioning.stages.caption import CaptionWindows, CaptionWorkerConfig
from pipeline.captioning.stages.capture import CaptureSink, WindowCapture
from pipeline.captioning.stages.decode import DecodeWindows
from pipeline.captioning.stages.probe import ProbeVideos
from pipeline.captioning.stages.segment import make_segmenter
from pipeline.common.ids import video_id, window_id
from pipeline.common.rows import CAPTION, CAPTURED, PROBED, VIDEO, Row, to_table
from pipeline.common.storage import Folder
from pipeline.common.worker_engine import WorkerModels, worker_engine
from pipeline.drafters.capture_graph import _window_of_frames
from pipeline.drafters.capture_run import captured_windows
from pipeline.drafters.capture_stage import CaptureWindows, CaptureWorkerConfig
from sparrow_core.config import CaptureConfig, FrameSamplingConfig
from sparrow_core.distill.shards import TABLES_FILE, read_shard, shard_name
from sparrow_core.distill.store import HiddenStateStore
from sparrow_core.errors import CheckpointError
from sparrow_core.targets.loading import read_frame_spec

NUM_WINDOWS = 4
KEEP = CaptureConfig(captions_per_window=2, greedy_share=0.0, max_bridge_tokens=4, max_new_tokens=8)


@pytest.fixture(scope="module")
def config(tiny_checkpoint: Path) -> CaptionConfig:
    return CaptionConfig(
        target=str(tiny_checkpoint),
        max_new_tokens=8,
        device="cpu",
        segment=SegmentConfig(window_s=1.0, min_remainder_s=0.5),
        frames=FrameSamplingConfig(fps=4.0, max_visual_tokens=32),
        audit=AuditConfig(share=0.0),
        capture=CaptionCaptureConfig(share=1.0, keep=KEEP),
    )


@pytest.fixture(scope="module")
def decoded(config: CaptionConfig, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """FRAMES rows of a clip of 4 s, and of a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 56, 3), dtype=np.uint8)
    write_mp4(folder / "clip.mp4", pixels, fps=10.0)
    (folder / "garbage.mp4").write_text("this is no video")
    files = [str(folder / name) for name in ("clip.mp4", "garbage.mp4")]
    videos = to_table([{"source_uri": file, "video_id": video_id(file)} for file in files], VIDEO)
    name = partial(window_id, prompt=config.prompt, settings="s")
    windows = make_segmenter(config.segment, name, frozenset())(ProbeVideos(config.decode)(videos))
    return DecodeWindows(config.decode, config.frames, read_frame_spec(config.target))(windows)


def captioned(config: CaptionConfig, windows: pa.Table, sink: CaptureSink | None) -> list[Row]:
    stage = CaptionWindows(CaptionWorkerConfig(config, "s", None, threads=1, capture=sink))
    table = asyncio.run(stage(windows))
    assert table.schema == CAPTION
    return table.to_pylist()


def shard(folder: Path, row: Row) -> Path:
    return folder / shard_name(row["window_id"])


def test_captions_stay_and_shards_come(config: CaptionConfig, decoded: pa.Table, tmp_path: Path) -> None:
    rows = captioned(config, decoded, CaptureSink(KEEP, str(tmp_path), "s"))
    without = captioned(config, decoded, None)
    assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in without]
    assert [row["capture"] for row in rows] == ["stored"] * NUM_WINDOWS + ["none"]
    assert [row["capture"] for row in without] == ["none"] * (NUM_WINDOWS + 1)
    for row in rows[:NUM_WINDOWS]:
        assert shard(tmp_path, row).stat().st_size == row["captured_bytes"] and row["t_capture_s"] > 0
        window, _ = read_shard(shard(tmp_path, row))
        texts = [caption.token_ids_C.tolist() for caption in window.captions]
        assert len(texts) == 2 and texts[0] != texts[1] != row["token_ids"], "samples of their own"
    assert len(HiddenStateStore(tmp_path)) == 2 * NUM_WINDOWS


def test_the_caption_itself_can_be_kept(config: CaptionConfig, decoded: pa.Table, tmp_path: Path) -> None:
    own = replace(config, capture=replace(config.capture, own_caption=True))
    for row in captioned(own, decoded, CaptureSink(KEEP, str(tmp_path), "s"))[:NUM_WINDOWS]:
        window, _ = read_shard(shard(tmp_path, row))
        assert [caption.token_ids_C.tolist() for caption in window.captions] == [row["token_ids"]]


def test_a_share_of_the_windows_is_kept(config: CaptionConfig, decoded: pa.Table, tmp_path: Path) -> None:
    """The first 32 bits of an id decide, of ids from the whole range and at both sides of the half."""
    ids = [f"{first}-0000-5000-8000-000000000000" for first in ("00000000", "7fffffff", "80000000", "ffffffff")]
    named = pa.concat_tables([decoded.slice(index, 1) for index in range(NUM_WINDOWS)])
    named = named.set_column(named.schema.get_field_index("window_id"), "window_id", pa.array(ids))
    some = replace(config, capture=replace(config.capture, share=0.5))
    for name in ("first", "again"):
        rows = captioned(some, named, CaptureSink(KEEP, str(tmp_path / name), "s"))
        assert [row["capture"] for row in rows] == ["stored", "stored", "none", "none"]
        assert [shard(tmp_path / name, row).exists() for row in rows] == [True, True, False, False]


def test_the_quota_is_kept(config: CaptionConfig, decoded: pa.Table, tmp_path: Path) -> None:
    one = captioned(config, decoded.slice(0, 1), CaptureSink(KEEP, str(tmp_path / "one"), "s"))[0]["captured_bytes"]
    most = int(2.5 * one)
    rows = captioned(config, decoded, CaptureSink(KEEP, str(tmp_path / "some"), "s", max_bytes=most))
    assert sorted(row["capture"] for row in rows[:NUM_WINDOWS]) == ["over_quota"] * 2 + ["stored"] * 2
    assert sum(path.stat().st_size for path in (tmp_path / "some").glob("shard-*")) <= most


def test_what_a_worker_wrote_before_it_was_started_again_counts(
    config: CaptionConfig, decoded: pa.Table, tmp_path: Path
) -> None:
    def sink(max_bytes: int | None = None) -> CaptureSink:
        return CaptureSink(KEEP, str(tmp_path), "s", max_bytes)

    one = captioned(config, decoded.slice(0, 1), sink())[0]["captured_bytes"]
    rows = captioned(config, decoded.slice(1, 3), sink(int(2.5 * one)))
    assert sorted(row["capture"] for row in rows) == ["over_quota"] * 2 + ["stored"]


def test_a_folder_of_another_target_is_refused_at_once(config: CaptionConfig, tmp_path: Path) -> None:
    models = WorkerModels(config.target, device="cpu")
    with worker_engine(models) as engine:
        WindowCapture(engine, CaptureSink(KEEP, str(tmp_path), "s"))
        WindowCapture(engine, CaptureSink(KEEP, str(tmp_path), "other settings"))
        deeper = replace(KEEP, bridge_layer=2)
        with pytest.raises(
            CheckpointError, match=r"holds hidden states captured with bridge_layer=1, these would have 2"
        ):
            WindowCapture(engine, CaptureSink(deeper, str(tmp_path), "s"))
        (tmp_path / TABLES_FILE).write_bytes(b"cut off")
        with pytest.raises(CheckpointError, match=f"{TABLES_FILE} is damaged"):
            WindowCapture(engine, CaptureSink(KEEP, str(tmp_path), "s"))


def test_what_cannot_be_stored_costs_no_caption(
    config: CaptionConfig, decoded: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Folder.write

    def full(folder: Folder, name: str, content: bytes) -> None:
        if name.startswith("shard-"):
            raise OSError("no space left on device")
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write", full)
    rows = captioned(config, decoded, CaptureSink(KEEP, str(tmp_path), "s"))
    assert [row["capture"] for row in rows[:NUM_WINDOWS]] == ["failed"] * NUM_WINDOWS
    assert all(row["status"] == "success" and row["caption"] is not None for row in rows[:NUM_WINDOWS])


def test_a_capture_of_its_own_accounts_for_every_window(
    config: CaptionConfig, decoded: pa.Table, tmp_path: Path
) -> None:
    worker = CaptureWorkerConfig(
        WorkerModels(config.target, device="cpu"), CaptureSink(KEEP, str(tmp_path), "s"), threads=1
    )
    stage = CaptureWindows(worker, partial(_window_of_frames, prompt=config.prompt))
    skipped = decoded.slice(0, 1).to_pylist()[0] | {"status": "skipped", "reason": "done before"}
    table = asyncio.run(stage(pa.concat_tables([to_table([skipped], decoded.schema), decoded.slice(1)])))
    assert table.schema == CAPTURED
    rows = table.to_pylist()
    assert [row["status"] for row in rows] == ["skipped", "success", "success", "success", "error"]
    assert rows[-1]["reason"] == "unreadable" and rows[0]["reason"] == "done before"
    assert [row["captions"] for row in rows] == [0, 2, 2, 2, 0]
    captured = {row["window_id"] for row in rows if row["status"] == "success"}
    assert captured_windows(str(tmp_path)) == captured, "what another run need not capture"
    store = HiddenStateStore(tmp_path)
    assert len(store) == 6 and store.examples([0])[0].hidden_TD.dtype == torch.float32


def test_done_windows_are_marked_where_they_must_be_counted() -> None:
    probed = to_table([{"source_uri": "v", "video_id": "i", "duration_s": 3.0}], PROBED)
    name = partial(window_id, prompt="p", settings="s")
    first = name("v", (0.0, 1.0))
    segment = make_segmenter(SegmentConfig(1.0, 0.5), name, frozenset({first}), marks_done=True)
    assert [row["status"] for row in segment(probed).to_pylist()] == ["skipped", None, None]
