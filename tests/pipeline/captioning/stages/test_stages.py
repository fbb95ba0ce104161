"""All stages on real files and a tiny real model, without Ray: columns, error rows, the audit."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from demo.world.video import write_mp4
from pipeline.captioning.config import AuditConfig, CaptionConfig, SegmentConfig
from pipeline.captioning.stages.boundary import for_each_row, row_boundary
from pipeline.captioning.stages.caption import CaptionWindows, CaptionWorkerConfig
from pipeline.captioning.stages.decode import DecodeWindows
from pipeline.captioning.stages.probe import ProbeVideos
from pipeline.captioning.stages.segment import make_segmenter
from pipeline.common.ids import video_id, window_id
from pipeline.common.rows import CAPTION, FRAMES, PROBED, VIDEO, Row, to_table
from sparrow_core.config import DraftConfig, FrameSamplingConfig
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.errors import EngineClosedError
from sparrow_core.targets.loading import load_target, read_frame_spec
from tests.sparrow_core.stage_clock import CHUNK_S, LOGITS_S, PASS_S, VISION_S, stage_clock

FPS = 10.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A clip of 3 s, a text file named .mp4, and a path without a file."""
    folder = tmp_path_factory.mktemp("videos")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 64, 96, 3), dtype=np.uint8)
    write_mp4(folder / "clip.mp4", pixels, fps=FPS)
    (folder / "garbage.mp4").write_text("this is no video")
    return [str(folder / name) for name in ("clip.mp4", "garbage.mp4", "vanished.mp4")]


@pytest.fixture(scope="module")
def config(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> CaptionConfig:
    drafter = tmp_path_factory.mktemp("drafter")
    info = load_target(str(tiny_checkpoint), device="cpu").info
    save_drafter(drafter, SparrowDrafterModel(DrafterConfig.for_target(info)), "# A drafter\n")
    return CaptionConfig(
        target=str(tiny_checkpoint),
        draft=str(drafter),
        max_new_tokens=8,
        device="cpu",
        segment=SegmentConfig(window_s=1.5, min_remainder_s=0.5),
        frames=FrameSamplingConfig(fps=4.0, max_visual_tokens=64),
    )


@pytest.fixture(scope="module")
def decoded(files: list[str], config: CaptionConfig) -> pa.Table:
    """FRAMES rows of the three files."""
    videos = to_table([{"source_uri": file, "video_id": video_id(file)} for file in files], VIDEO)
    probed = ProbeVideos(config.decode)(videos)
    assert probed.schema == PROBED
    name = partial(window_id, prompt=config.prompt, settings="s")
    windows = make_segmenter(config.segment, name, frozenset())(probed)
    return DecodeWindows(config.decode, config.frames, read_frame_spec(config.target))(windows)


def captioned(config: CaptionConfig, windows: pa.Table) -> list[Row]:
    worker = CaptionWorkerConfig(config, settings_fingerprint="s", draft_fingerprint="d", threads=1)
    stage = CaptionWindows(worker)
    table = asyncio.run(stage(windows))
    assert table.schema == CAPTION
    return table.to_pylist()


@pytest.fixture(scope="module")
def rows(config: CaptionConfig, decoded: pa.Table) -> Iterator[list[Row]]:
    yield captioned(config, decoded)


def test_frames_have_global_times_and_the_announced_shape(decoded: pa.Table) -> None:
    assert decoded.schema == FRAMES
    first, second, *_ = decoded.to_pylist()
    # 1.5 s at 4 frames per second, in seconds of the whole video.
    assert (first["start_s"], first["end_s"], second["start_s"], second["end_s"]) == (0.0, 1.5, 1.5, 3.0)
    assert first["n_frames"] == len(first["frame_times"]) == 6
    shifted = np.array(second["frame_times"]) - np.array(first["frame_times"])
    # A shown frame starts at most one frame interval before the instant that was asked for.
    assert np.all(np.abs(shifted - 1.5) <= 1 / FPS + 1e-6)
    assert len(first["pixels"]) == 6 * first["pixels_height"] * first["pixels_width"] * 3


def test_every_file_has_its_rows_and_failures_their_reasons(rows: list[Row], files: list[str]) -> None:
    assert [(row["source_uri"], row["status"], row["reason"]) for row in rows] == [
        (files[0], "success", None),
        (files[0], "success", None),
        (files[1], "error", "unreadable"),
        (files[2], "error", "missing"),
    ]
    assert all(row["error"] for row in rows[2:])
    assert all(row["window_id"] and row["created_at"] and row["schema_version"] == 1 for row in rows)
    assert len({row["window_id"] for row in rows}) == 4


def test_figures_of_a_caption_agree_with_each_other(rows: list[Row], config: CaptionConfig) -> None:
    for row in rows[:2]:
        assert row["output_tokens"] == len(row["token_ids"]) <= config.max_new_tokens
        assert sum(row["accept_hist"]) == row["rounds"]
        assert row["tau"] * row["rounds"] == pytest.approx(
            row["output_tokens"] - 1
        )  # the first token comes from prefill
        assert 0 < row["visual_tokens"] <= min(64, row["prompt_tokens"])
        assert row["t_decode_tokens_s"] >= row["t_draft_s"] + row["t_verify_s"]
        assert (row["width"], row["height"]) == (96, 64)
        assert row["draft_id"] == Path(config.draft or "").name
        assert row["prompt"] == config.prompt and row["device"] == "cpu" and row["dtype"] == "float32"


def test_a_row_has_the_seconds_of_each_stage(
    config: CaptionConfig, decoded: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that only stages move. The drafter takes the time of lm_head, the only part that it shares."""
    unaudited = replace(config, audit=AuditConfig(share=0.0), engine=replace(config.engine, draft=DraftConfig.chain(2)))
    stage = CaptionWindows(CaptionWorkerConfig(unaudited, "s", None, threads=1))
    stage_clock(stage._engine.target, monkeypatch)
    (row,) = asyncio.run(stage(decoded.slice(0, 1))).to_pylist()
    found = {name: row[f"t_{name}_s"] for name in ("vision", "prefill", "drafter_prefill", "draft", "verify")}
    rounds = row["rounds"]
    assert rounds and found == {
        "vision": VISION_S,
        "prefill": CHUNK_S + LOGITS_S,
        "drafter_prefill": 0.0,
        "draft": rounds * 2 * LOGITS_S,
        "verify": rounds * (PASS_S + LOGITS_S),
    }
    assert row["t_decode_tokens_s"] == found["draft"] + found["verify"]


def test_a_worker_audits_its_first_caption_and_the_sampled_share(
    rows: list[Row], config: CaptionConfig, decoded: pa.Table
) -> None:
    assert "equal" in {rows[0]["audit"], rows[1]["audit"]}
    everything = captioned(replace(config, audit=AuditConfig(share=1.0)), decoded)
    assert [row["audit"] for row in everything] == ["equal", "equal", "none", "none"]


def test_without_drafter_or_share_nothing_is_audited_and_the_words_stay(
    rows: list[Row], config: CaptionConfig, decoded: pa.Table
) -> None:
    alone = captioned(replace(config, draft=None), decoded)
    assert [row["audit"] for row in alone] == ["none"] * 4
    assert [row["token_ids"] for row in alone] == [row["token_ids"] for row in rows]
    assert {row["audit"] for row in captioned(replace(config, audit=AuditConfig(share=0.0)), decoded)} == {"none"}


def test_a_window_too_long_for_the_engine_is_one_error_row(config: CaptionConfig, decoded: pa.Table) -> None:
    small = replace(config, engine=replace(config.engine, max_model_tokens=40))
    first = captioned(small, decoded.slice(0, 1))[0]
    assert (first["status"], first["reason"]) == ("error", "refused")
    assert "max_model_tokens is 40" in first["error"]


def test_dead_engine_ends_the_worker(config: CaptionConfig, decoded: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    stage = CaptionWindows(CaptionWorkerConfig(config, "s", None, threads=1))
    stage._engine.close()
    with pytest.raises(Ended):
        asyncio.run(stage(decoded.slice(0, 1)))


def test_any_exception_of_a_stage_is_one_error_row() -> None:
    def work(row: Row) -> list[Row]:
        if row["source_uri"] == "bad":
            raise ZeroDivisionError("oops")
        return [row, row]

    rows = to_table([{"source_uri": uri} for uri in ("good", "bad")], PROBED)
    result = for_each_row(rows, work, PROBED).to_pylist()
    assert [row["source_uri"] for row in result] == ["good", "good", "bad"]
    assert (result[2]["status"], result[2]["reason"]) == ("error", "internal_error")
    assert result[2]["error"] == "ZeroDivisionError: oops"


def test_faults_of_the_worker_pass_the_boundary() -> None:
    row: Row = {"status": None}
    with pytest.raises(EngineClosedError), row_boundary(row):
        raise EngineClosedError("dead")
    assert row["status"] is None
