"""The captioning command without Ray: refusals, exit codes and messages."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.caption_corpus import app
from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.ledger import Ledger
from pipeline.captioning.run import ExitCode, caption_settings, exit_code
from pipeline.captioning.stages.write import make_writer
from pipeline.common.ids import video_id
from pipeline.common.rows import CAPTION, to_table
from pipeline.common.storage import Folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "videos" / "a.mp4"
    path.parent.mkdir()
    path.write_bytes(b"never opened here")
    return path


def command(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "500"}).invoke(app, [str(argument) for argument in arguments])


def finished(folder: Path, checkpoint: Path, video: Path, status: str, audit: str = "none") -> None:
    """Make an output folder that holds a row for the only window of the video."""
    Ledger(Folder(str(folder)), caption_settings(CaptionConfig(target=str(checkpoint))))
    row = {"window_id": "w", "video_id": video_id(str(video)), "source_uri": str(video), "window_index": 0}
    row |= {"num_windows": 1, "status": status, "audit": audit}
    make_writer(str(folder), 1)(to_table([row], CAPTION))


def test_unknown_setting_is_refused(video: Path, tmp_path: Path) -> None:
    result = command("--input", video, "--output", tmp_path / "out", "--set", "frames.fsp=1")
    assert result.exit_code == ExitCode.USAGE
    assert "unknown setting 'frames.fsp'; the nearest valid one is 'frames.fps'" in result.stderr


@pytest.mark.parametrize(
    ("target", "complaint"), [("/nowhere/model", "neither a checkpoint folder nor a hub id"), ("{tmp}", "safetensors")]
)
def test_unusable_target_is_refused_before_anything_starts(
    video: Path, tmp_path: Path, target: str, complaint: str
) -> None:
    result = command("--input", video, "--output", tmp_path / "out", "--target", target.format(tmp=tmp_path))
    assert result.exit_code == ExitCode.USAGE
    assert complaint in result.stderr
    assert not (tmp_path / "out").exists()


def test_empty_input_is_refused(tmp_path: Path) -> None:
    result = command("--input", tmp_path / "nothing", "--output", tmp_path / "out")
    assert result.exit_code == ExitCode.USAGE
    assert "matches no file" in result.stderr


@pytest.mark.parametrize(("flag", "other"), [("--input", "--output"), ("--output", "--input")])
def test_submitted_job_refuses_relative_paths(flag: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    result = command(flag, "videos", other, "/archive")
    assert result.exit_code == ExitCode.USAGE
    assert f"{flag} videos is relative" in result.stderr
    assert f'{flag} "$PWD/videos"' in result.stderr


@pytest.mark.parametrize(
    ("status", "audit", "code"),
    [
        ("success", "equal", ExitCode.DONE),
        ("success", "diverged", ExitCode.AUDIT_DIVERGED),
        ("error", "none", ExitCode.ERROR_ROWS),
    ],
)
def test_nothing_to_do(
    tiny_checkpoint: Path, video: Path, tmp_path: Path, status: str, audit: str, code: ExitCode
) -> None:
    finished(tmp_path / "out", tiny_checkpoint, video, status, audit)
    result = command(
        *("--input", video.parent, "--output", tmp_path / "out", "--target", tiny_checkpoint),
        *("--set", "retry_errors=false"),
    )
    assert "nothing to do" in result.stdout
    assert result.exit_code == code


def test_other_prompt_on_the_same_folder_is_refused(tiny_checkpoint: Path, video: Path, tmp_path: Path) -> None:
    finished(tmp_path / "out", tiny_checkpoint, video, "success")
    result = command(
        *("--input", video.parent, "--output", tmp_path / "out", "--target", tiny_checkpoint),
        *("--prompt", "What happens?"),
    )
    assert result.exit_code == ExitCode.USAGE
    assert 'prompt was "Describe the video.", is now "What happens?"' in result.stderr


def test_other_checkpoint_is_refused_and_another_drafter_is_not(
    tiny_checkpoint: Path, other_checkpoint: Path, video: Path, tmp_path: Path
) -> None:
    finished(tmp_path / "out", tiny_checkpoint, video, "success")
    arguments = ("--input", video.parent, "--output", tmp_path / "out")
    other = command(*arguments, "--target", other_checkpoint)
    assert other.exit_code == ExitCode.USAGE and "target_checkpoint was" in other.stderr
    same = command(*arguments, "--target", tiny_checkpoint, "--draft", other_checkpoint)
    assert same.exit_code == ExitCode.DONE


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, ExitCode.DONE),
        ({"windows": {"error": 1}}, ExitCode.ERROR_ROWS),
        ({"lost_videos": ["a.mp4"]}, ExitCode.ERROR_ROWS),
        ({"audit": {"checked": 2, "equal": 1}, "windows": {"error": 1}}, ExitCode.AUDIT_DIVERGED),
        ({"run": {"interrupted": True}, "windows": {"error": 1}}, ExitCode.INTERRUPTED),
    ],
)
def test_exit_code_tells_the_gravest_outcome(changes: dict, code: ExitCode) -> None:
    report = {
        "run": {"interrupted": False},
        "windows": {"error": 0},
        "audit": {"checked": 2, "equal": 2},
        "lost_videos": [],
    }
    assert exit_code(report | changes) == code


def test_help_names_the_exit_codes() -> None:
    result = command("--help")
    for code in ExitCode:
        assert f"{code.value} " in result.stdout
