"""How the equality check spreads windows over batch sizes, and what it refuses."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from jobs.check_equality import in_groups, main

pytestmark = pytest.mark.slow


def check(output: Path, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner(env={"COLUMNS": "500"}).invoke(app, ["--output", str(output), *arguments])


def test_every_size_gets_as_many_windows() -> None:
    names = [str(number) for number in range(16)]
    groups = list(in_groups(names, (1, 4)))
    assert [len(group) for group in groups] == [1, 1, 1, 1, 4, 1, 1, 1, 1, 4]
    assert [name for group in groups for name in group] == names


def test_the_last_group_may_be_smaller() -> None:
    assert list(in_groups(["a", "b", "c"], (2,))) == [["a", "b"], ["c"]]


def test_a_length_that_no_clip_has_is_named(tmp_path: Path) -> None:
    result = check(tmp_path, "--greedy", "65:3")
    assert result.exit_code == 2 and "65:3" in result.output and not list(tmp_path.iterdir())


def test_other_settings_for_the_same_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "comparisons.jsonl").write_text('{"batch": "3"}\n')
    result = check(tmp_path, "--greedy", "64:1")
    assert result.exit_code == 2 and "batch='3'" in result.output and not (tmp_path / "equality.json").exists()
