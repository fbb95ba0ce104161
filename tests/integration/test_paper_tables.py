"""The paper's comparison, small: every method is trained and measured, and a second run does nothing again."""

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from jobs.paper_tables import main

METHODS = {"sparrow", "vispec", "specvlm", "prompt_lookup"}
ABLATIONS = {"without VATA", "without VATA, squeezed", "another seed"}

# About 60 s on two free cores.
pytestmark = pytest.mark.timeout(900)


def settings(target: Path) -> dict:
    return {
        "base": {
            "target": str(target),
            "num_windows": 2,
            "capture": {"captions_per_window": 2, "max_new_tokens": 16, "keep_embeddings": True},
            "train": {"steps": 3, "batch_size": 2, "recursions": 1, "bridge_share": 0.5, "warmup_steps": 1},
            "windows": {"split": "train", "lengths": [64], "first_seed": 7, "varied_prompts": False},
        },
        "learning_rates": [0.001, 0.01],
        "most_rates": 2,
        "methods": {
            "sparrow": {},
            "vispec": {"sees": "summary", "train": {"bridge_share": 0.0}},
        },
        "tuned": {"without VATA": {"sees": "bridge"}},
        "ablations": {"another seed": {"train": {"seed": 1}}},
        "validation": {"lengths": [64], "windows_per_length": 1},
        "measure": {
            "lengths": [64, 96], "windows": 1, "most_windows": 2, "ablation_lengths": [64], "max_new_tokens": 12,
            "squeezed": ["without VATA"], "squeezed_span": 16, "workers": 2,
            "layer_length": 64, "layer_windows": 1,
        },
    }  # fmt: skip


def run(config: Path, output: Path, *more: str) -> Result:
    app = typer.Typer()
    app.command()(main)
    arguments = ["--config", str(config), "--output", str(output), *more]
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments, catch_exceptions=False)


def test_all_methods_are_trained_measured_and_not_done_twice(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config, output = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(settings(tiny_checkpoint)))
    result = run(config, output)
    assert result.exit_code == 0, result.output
    journal = (output / "runs.jsonl").read_text()
    runs = [run for line in journal.splitlines()[1:] for run in json.loads(line)["runs"]]
    assert {run["method"] for run in runs} == METHODS | {"autoregressive", *ABLATIONS}
    assert {run["temperature"] for run in runs} == {0.0, 1.0} and all(run["equal"] for run in runs)
    written = json.loads((output / "paper_tables.json").read_text())
    assert [row["layer"] for row in written["layers"]] == [1, 2, 3]
    assert written["rows"] == written["ablation"] == [], "all captions were cut off at 12 tokens"
    trained = {(row["name"], row["learning_rate"]): row for row in written["training"]}
    assert len(trained) == 3 * 2 + 1
    for name in METHODS - {"specvlm", "prompt_lookup"}:
        rates = {rate: trained[name, rate] for rate in (0.001, 0.01)}
        (chosen,) = (rate for rate, row in rates.items() if row["chosen"])
        assert rates[chosen]["tau"] == max(row["tau"] for row in rates.values())
        assert [step for step, _, _ in rates[chosen]["curve"]] == [0, 2]

    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    again = run(config, output)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")} == before
    assert (output / "runs.jsonl").read_text() == journal

    more = settings(tiny_checkpoint)
    more["ablations"]["a third seed"] = {"train": {"seed": 2}}
    config.write_text(yaml.safe_dump(more))
    assert run(config, output).exit_code == 0
    added = (output / "runs.jsonl").read_text().removeprefix(journal).splitlines()
    assert added and {run["method"] for line in added for run in json.loads(line)["runs"]} == {
        "autoregressive",
        "a third seed",
    }

    other = run(config, output, "--set", "measure.draft.depth=3")
    assert other.exit_code == 2 and "measured on validation windows with draft={'depth': 7" in other.output
