"""The captioning job on Ray: one row per window, errors as rows, and a killed run ends like an unkilled one."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from demo.world.video import write_mp4
from jobs.audit import main as audit_main
from jobs.caption_corpus import app
from jobs.capture_hidden_states import main as capture_main
from pipeline.captioning.run import ExitCode
from pipeline.captioning.stored_windows import CaptionRunTable, by_length, stored_windows
from sparrow_core.config import DecodeConfig
from sparrow_core.decoding.target import TargetModel
from sparrow_core.distill.store import HiddenStateStore
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.targets.loading import read_frame_spec
from sparrow_core.types import Frames

REPOSITORY = Path(__file__).parents[2]
NUM_VIDEOS, WINDOWS_PER_VIDEO = 3, 5
NUM_WINDOWS = NUM_VIDEOS * WINDOWS_PER_VIDEO + 1  # and one file that is no video
PART_DEADLINE_S, END_DEADLINE_S = 300.0, 60.0

# Three starts of Ray, about 15 s each on two free cores; the limit allows for a machine that is busy with other things.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def arguments(tiny_checkpoint: Path, tiny_target: TargetModel, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line without its output: clips of 5 s in windows of 1 s, and a text file named .mp4."""
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(NUM_VIDEOS):
        pixels = np.random.default_rng(index).integers(0, 256, (50, 56, 56, 3), dtype=np.uint8)
        write_mp4(folder / f"clip {index}.mp4", pixels, fps=10.0)
    (folder / "garbage.mp4").write_text("this is no video")
    torch.manual_seed(0)
    drafter = tmp_path_factory.mktemp("drafter")
    save_drafter(drafter, SparrowDrafterModel(DrafterConfig.for_target(tiny_target.info)), "# An untrained drafter\n")
    settings = ["max_new_tokens=24", "frames.max_visual_tokens=16", "segment.window_s=1"]
    settings += ["resources.caption_cpus=1", "engine.max_model_tokens=512", "audit.share=0.3"]
    command = ["--input", str(folder), "--target", str(tiny_checkpoint), "--draft", str(drafter)]
    return command + [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> None:
    """Never join somebody's cluster."""
    os.environ.pop("RAY_ADDRESS", None)


def run(arguments: list[str], output: Path) -> Result:
    """The command in this process."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--output", str(output)], catch_exceptions=False)


def captions(output: Path) -> pd.DataFrame:
    """The table as its readers see it, without what differs from run to run by nature."""
    table = pd.read_parquet(output / "captions").sort_values("window_id").reset_index(drop=True)
    of_the_drafts = {
        "rounds",
        "drafted_tokens",
        "in_doubt_tokens",
        "tau",
        "accept_hist",
    }  # the governor goes by measured times
    own = [column for column in table.columns if column.startswith("t_") or column in {"created_at", "audit"}]
    own += sorted(of_the_drafts)
    return table.drop(columns=own)


@pytest.fixture(scope="module")
def unkilled(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    output = tmp_path_factory.mktemp("unkilled")
    return output, run(arguments, output)


def test_every_window_has_one_row_and_the_broken_file_an_error(unkilled: tuple[Path, Result]) -> None:
    output, result = unkilled
    assert result.exit_code == ExitCode.ERROR_ROWS, result.output
    table = captions(output)
    assert len(table) == table["window_id"].nunique() == NUM_WINDOWS
    errors = table[table["status"] == "error"]
    assert [Path(uri).name for uri in errors["source_uri"]] == ["garbage.mp4"]
    assert errors["reason"].tolist() == ["unreadable"]
    good = table[table["status"] == "success"].sort_values(["source_uri", "start_s"])
    assert good["start_s"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0] * NUM_VIDEOS
    assert good["duration_s"].tolist() == pytest.approx([5.0] * len(good))
    assert all(
        start <= time_s < end
        for start, end, times in good[["start_s", "end_s", "frame_times"]].values
        for time_s in times
    )


def test_report_and_console_agree_with_the_table(unkilled: tuple[Path, Result]) -> None:
    output, result = unkilled
    report = json.loads((output / "report.json").read_text())
    table = captions(output)
    assert report["windows"] == {"total": NUM_WINDOWS, "success": NUM_WINDOWS - 1, "error": 1}
    assert report["tokens"] == report["run"]["tokens"] == int(table["output_tokens"].sum())
    assert report["tokens_per_s"] == pytest.approx(report["tokens"] / report["run"]["wall_s"], rel=0.01)
    assert 1 <= report["audit"]["checked"] == report["audit"]["equal"] < NUM_WINDOWS
    assert report["tau"] >= 1.0
    assert (report["device"], report["dtype"], report["threads"]) == (["cpu"], ["float32"], 1)
    for name in ("clip 0.mp4", "garbage.mp4"):
        assert name in result.stdout
    assert f"{report['audit']['equal']} of {report['audit']['checked']} windows" in result.stdout


def test_again_redoes_nothing(unkilled: tuple[Path, Result], arguments: list[str]) -> None:
    output, _ = unkilled
    before = {part.name: part.stat().st_mtime_ns for part in (output / "captions").iterdir()}
    result = run([*arguments, "--set", "retry_errors=false"], output)
    assert "nothing to do" in result.stdout
    assert {part.name: part.stat().st_mtime_ns for part in (output / "captions").iterdir()} == before


def test_killed_run_resumes_to_the_same_table(
    unkilled: tuple[Path, Result], arguments: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    finished = kill_after_first_parts(arguments, output, tmp_path / "log.txt")
    assert 0 < len(finished) < NUM_WINDOWS
    before = pd.read_parquet(output / "captions").set_index("window_id")["created_at"]

    result = run(arguments, output)

    assert result.exit_code == ExitCode.ERROR_ROWS, result.output
    pd.testing.assert_frame_equal(captions(output), captions(unkilled[0]))
    after = pd.read_parquet(output / "captions").set_index("window_id")
    done = after[after["status"] == "success"].index.intersection(before.index)
    assert (after.loc[done, "created_at"] == before[done]).all(), "a finished window was captioned again"


def test_the_audit_tool_finds_equal_and_tampered_captions(
    unkilled: tuple[Path, Result], arguments: list[str], tmp_path: Path
) -> None:
    output, tampered = unkilled[0], tmp_path / "tampered"
    shutil.copytree(output, tampered)
    part = next(p for p in (tampered / "captions").iterdir() if "success" in pd.read_parquet(p)["status"].values)
    table = pq.read_table(part)
    rows = table.to_pylist()
    changed = next(row for row in rows if row["status"] == "success")
    changed["token_ids"][5] += 1
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)

    target = ["--target", arguments[arguments.index("--target") + 1], "--threads", "1"]
    audit = typer.Typer()
    audit.command()(audit_main)
    equal = CliRunner().invoke(audit, [str(output), "--share", "0.4", *target])
    assert equal.exit_code == 0 and "windows equal" in equal.stdout, equal.output
    found = tmp_path / "found.json"
    different = CliRunner().invoke(audit, [str(output), "--against", str(tampered), *target, "--output", str(found)])
    assert different.exit_code == 4, different.output
    (finding,) = (f for f in json.loads(found.read_text()) if f["first_difference"] is not None)
    assert finding["first_difference"] == 5 and finding["margin"] > 0
    wrong = CliRunner().invoke(audit, [str(tmp_path / "nowhere")])
    assert wrong.exit_code == 2 and "holds no captioning run" in wrong.output


def kill_after_first_parts(arguments: list[str], output: Path, log: Path) -> set[str]:
    """Run the command in a process of its own, SIGKILL it after two parts, and return the parts that it left."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "jobs/caption_corpus.py", *arguments, "--output", str(output)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PART_DEADLINE_S
        while len(list((output / "captions").glob("part-*"))) < 2:
            assert process.poll() is None, f"the job ended by itself: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"no part within {PART_DEADLINE_S} s: {log.read_text()[-2000:]}"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return settled_parts(output / "captions")


def settled_parts(folder: Path) -> set[str]:
    """Parts once no more appear: the workers outlive their driver by a moment, as they would on a cluster."""
    deadline = time.monotonic() + END_DEADLINE_S
    parts: set[str] = set()
    while time.monotonic() < deadline:
        time.sleep(1.5)
        now = {part.name for part in folder.glob("part-*")}
        if now == parts:
            break
        parts = now
    return parts


def test_drafters_can_be_measured_on_its_windows(unkilled: tuple[Path, Result], arguments: list[str]) -> None:
    target = arguments[arguments.index("--target") + 1]
    run, frame_spec = CaptionRunTable(str(unkilled[0])), read_frame_spec(target)
    windows, again = (stored_windows(run, frame_spec, DecodeConfig()) for _ in range(2))
    counts = {length: len(of_length) for length, of_length in by_length(windows, (16, 4096)).items()}
    assert counts == {16: NUM_WINDOWS - 1}
    assert [window.row["window_id"] for window in again] == [window.row["window_id"] for window in windows]
    first = pickle.loads(pickle.dumps(windows[0]))
    request = first()
    (frames, prompt) = request.messages[0].parts
    assert prompt == "Describe the video." and request.max_new_tokens == 24
    assert isinstance(frames, Frames) and list(frames.times_s) == pytest.approx(first.row["frame_times"])


def test_hidden_states_of_the_same_videos_are_captured_and_all_accounted_for(
    arguments: list[str], tmp_path: Path
) -> None:
    """That a second run skips what is there is seen without Ray (`stages/test_capture.py`)."""
    capture = typer.Typer()
    capture.command()(capture_main)
    keep = ["--set", "capture.keep.captions_per_window=2", "--set", "capture.keep.max_new_tokens=24"]
    command = [*arguments, *keep, "--output", str(tmp_path / "states")]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(capture, command)
    assert result.exit_code == ExitCode.ERROR_ROWS, result.output
    assert "16 windows = 15 captured, 1 errors, 0 skipped; 30 captions" in result.stdout, result.stdout
    assert "garbage.mp4: unreadable" in result.stdout
    assert len(HiddenStateStore(tmp_path / "states")) == 30
