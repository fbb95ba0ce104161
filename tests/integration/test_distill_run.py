"""The distillation job killed in the middle, three ways: it goes on, ends where an unkilled run ends, changes no word.

first     two workers; the driver and they are killed
resumed   two workers go on; one of them is killed; they finish
alone     one worker goes on from a copy of what `first` left
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
import typer
import yaml
from filelock import FileLock
from safetensors.torch import load_file
from typer.testing import CliRunner

from demo.windows import DemoWindows
from jobs.demo_distillation import DistillJobConfig
from jobs.distill_draft import main
from pipeline.common.checkpoints import worker_draft
from pipeline.common.registry import Registry
from pipeline.common.settings import build_config
from pipeline.drafters.config import run_name
from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.target import TargetModel
from sparrow_core.distill.trainer import StepMetrics
from sparrow_core.drafters.artefact import load_drafter
from sparrow_core.drafters.network import DrafterConfig
from sparrow_core.engine.engine import Engine
from tests.integration.plain_training import train_worker

REPOSITORY = Path(__file__).parents[2]
STEPS, FIRST_STOP, STEPS_ALONE = 400, 80, 60  # the first stop is on record dozens of steps after it was made
CHECKPOINT_DEADLINE_S, RUN_DEADLINE_S = 300, 400

# About 5 minutes on two free cores; the limit allows for a machine that is busy with other things.
pytestmark = pytest.mark.timeout(900)


def job_settings(target: Path) -> dict:
    return {
        "target": str(target),
        "num_windows": 2,
        "capture": {"captions_per_window": 2, "max_new_tokens": 16},
        "train": {
            "steps": STEPS, "batch_size": 4, "recursions": 2, "bridge_share": 0.5, "checkpoint_every": FIRST_STOP,
            "warmup_steps": 5,
        },
        "validation": {"windows": 1, "length": 64, "draft": {"depth": 2, "width": 1, "total": 3}},
        "workers": {"train": 2},
        "windows": {"split": "train", "lengths": [64], "first_seed": 7, "varied_prompts": False},
        "evaluation": {
            "lengths": [64], "windows_per_length": 1, "max_new_tokens": 12,
            "drafts": {"chain": {"depth": 3, "width": 1, "total": 4}},
        },
    }  # fmt: skip


def start_job(config: Path, output: Path, log: Path, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_TOKEN": "test", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    folders = ["--output", str(output), "--registry", str(output / "registry")]
    command = [sys.executable, "jobs/distill_draft.py", "--config", str(config), *folders, *more]
    with log.open("w") as stream:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("training/*/step-*"))


def recorded_step(output: Path) -> int:
    """The last checkpoint that Ray Train has noted in its own book, which is what it resumes from; 0 for none."""
    books = output.glob("training/*/checkpoint_manager_snapshot.json")
    return max([int(step) for book in books for step in re.findall(r"step-(\d+)", book.read_text())], default=0)


def wait_until(condition: Callable[[], bool], job: subprocess.Popen, log: Path) -> None:
    """Poll a condition of a job that is under way."""
    deadline = time.monotonic() + CHECKPOINT_DEADLINE_S
    while not condition():
        assert job.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.02)


def kill(job: subprocess.Popen) -> None:
    job.send_signal(signal.SIGKILL)
    job.wait()


def steps_of(output: Path) -> dict[str, list[dict]]:
    """Every step that a worker has noted, also those that it made twice, by the name of its journal."""
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in output.glob("training/*/steps-*.jsonl")
    }


def last_step(output: Path) -> dict:
    """What the second of two workers has noted last."""
    return steps_of(output)["steps-1-of-2"][-1]


@pytest.fixture(scope="module")
def first_run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a job that was killed after its first recorded checkpoint; its config lies beside it."""
    folder = tmp_path_factory.mktemp("distill")
    config, output = folder / "config.yaml", folder / "first"
    config.write_text(yaml.safe_dump(job_settings(tiny_checkpoint)))
    job = start_job(config, output, folder / "first.log")
    wait_until(lambda: recorded_step(output) >= FIRST_STOP, job, folder / "first.log")
    pids = {step["pid"] for steps in steps_of(output).values() for step in steps}
    kill(job)
    for pid in pids:  # at once, as when a machine dies: on their own they would go on for hundreds of steps
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + CHECKPOINT_DEADLINE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"workers {pids} go on without their driver"
        time.sleep(0.1)
    assert f"step-{STEPS:06d}" not in checkpoints(output), "the kill came too late to show anything"
    return output


@pytest.fixture(scope="module")
def resumed_run(first_run: Path) -> Path:
    """Output folder of a job that went on from there, and from the death of a worker."""
    output = copy_of(first_run, "resumed")
    config, log = first_run.parent / "config.yaml", first_run.parent / "resumed.log"
    job = start_job(config, output, log, "--set", "trigger.min_new_captions=9")  # not asked of what has begun
    killed_before = last_step(first_run)["pid"]
    wait_until(lambda: last_step(output)["pid"] != killed_before, job, log)
    victim = last_step(output)
    os.kill(victim["pid"], signal.SIGKILL)
    assert victim["step"] < STEPS - 1, "the kill came too late to show anything"
    assert job.wait(RUN_DEADLINE_S) == 0, log.read_text()[-4000:]
    assert "step 0:" not in log.read_text()
    return output


def copy_of(run: Path, name: str) -> Path:
    """What a run left, under another name beside it; Ray Train's books name checkpoints relative to themselves."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    return copy


@pytest.fixture(scope="module")
def unkilled(
    resumed_run: Path, tiny_checkpoint: Path, tiny_target: TargetModel, tmp_path_factory: pytest.TempPathFactory
) -> list[dict]:
    """By rank, weights and steps of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unkilled")
    config = build_config(DistillJobConfig, job_settings(tiny_checkpoint))
    (states,) = resumed_run.glob("states-*")
    arguments = (str(states), DrafterConfig.for_target(tiny_target.info), config.train, str(folder))
    multiprocessing.start_processes(train_worker, args=arguments, nprocs=2, start_method="spawn")
    return [torch.load(folder / f"unkilled-{rank}.pt", weights_only=False) for rank in range(2)]


def test_killed_runs_equal_an_unkilled_one(resumed_run: Path, unkilled: list[dict]) -> None:
    journals = steps_of(resumed_run)
    assert set(journals) == {"steps-0-of-2", "steps-1-of-2"}
    for rank in range(2):
        noted = journals[f"steps-{rank}-of-2"]
        assert {step["step"] for step in noted} == set(range(STEPS))
        assert len({step["pid"] for step in noted}) == 3, "processes before, between and after the kills"
        assert all(as_noted(unkilled[rank]["steps"][step["step"]]) == as_noted(step) for step in noted)
    weights, resumed = unkilled[0]["drafter"], checkpoint_weights(resumed_run, f"step-{STEPS:06d}")
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def as_noted(step: StepMetrics | dict) -> tuple:
    """What must not differ by one bit."""
    fields = step if isinstance(step, dict) else asdict(step)
    return fields["loss"], list(fields["windows"]), fields["learning_rate"], list(fields["agreement"])


def checkpoint_weights(output: Path, step: str) -> dict[str, torch.Tensor]:
    (file,) = output.glob(f"training/*/{step}/state.pt")
    return torch.load(file)["drafter"]


def test_the_best_checkpoint_becomes_the_drafter(resumed_run: Path) -> None:
    (book,) = resumed_run.glob("training/*/checkpoint_manager_snapshot.json")
    results = json.loads(book.read_text())["checkpoint_results"]
    taus = {result["checkpoint_dir_name"]: result["metrics"]["tau"] for result in results}
    weights = checkpoint_weights(resumed_run, max(taus, key=lambda step: taus[step]))
    drafter = load_file(resumed_run / "drafter" / "model.safetensors")
    assert all(torch.equal(weights[name].bfloat16(), drafter[name]) for name in drafter)


def test_one_worker_goes_on_where_two_were(first_run: Path, unkilled: list[dict]) -> None:
    """The same windows in the same order, and losses up to rounding."""
    config, output, log = first_run.parent / "config.yaml", copy_of(first_run, "alone"), first_run.parent / "alone.log"
    job = start_job(config, output, log, "--set", "workers.train=1")

    def alone() -> list[dict]:
        return steps_of(output).get("steps-0-of-1", [])

    wait_until(lambda: len(alone()) >= STEPS_ALONE, job, log)
    kill(job)  # how runs end is seen elsewhere
    assert alone()[0]["step"] >= FIRST_STOP
    for step in alone():
        both = [unkilled[rank]["steps"][step["step"]] for rank in range(2)]
        assert step["windows"] == list(both[0].windows)
        assert step["loss"] == pytest.approx((both[0].loss + both[1].loss) / 2, rel=1e-4)


def test_again_there_is_nothing_new_and_a_second_copy_leaves(
    resumed_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    app = typer.Typer()
    app.command()(main)
    config, registry = resumed_run.parent / "config.yaml", resumed_run / "registry"
    command = ["--config", str(config), "--output", str(resumed_run), "--registry", str(registry)]
    before = {path: path.stat().st_mtime_ns for path in resumed_run.glob("drafter/*")}
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0 and "nothing new to learn from" in again.output, again.output
    assert {path: path.stat().st_mtime_ns for path in resumed_run.glob("drafter/*")} == before
    with FileLock(resumed_run / "lease"):
        second = CliRunner().invoke(app, command)
    assert second.exit_code == 0 and "another run holds" in second.output, second.output


def test_another_config_is_another_run(tiny_checkpoint: Path) -> None:
    settings = job_settings(tiny_checkpoint)
    config = build_config(DistillJobConfig, settings)
    name = run_name(config, "states")
    settings["workers"]["train"] = 1
    assert run_name(build_config(DistillJobConfig, settings), "states") == name
    assert run_name(config, "other states") != name
    settings["train"]["state_noise"] = 0.1
    assert run_name(build_config(DistillJobConfig, settings), "states") != name


def test_its_drafter_changes_no_word(resumed_run: Path, tiny_target: TargetModel) -> None:
    drafter = load_drafter(str(resumed_run / "drafter"), tiny_target)
    requests = [DemoWindows("heldout", (64,), 0).request(index, max_new_tokens=24) for index in range(3)]
    with Engine(tiny_target, drafter, EngineConfig(draft=DraftConfig(3, 3, 8), max_model_tokens=512)) as engine:
        for request in requests:
            prompt = tiny_target.build_prompt(request.messages)
            alone = generate_autoregressively(tiny_target, prompt, request.sampling, request.max_new_tokens)
            assert engine.submit(request).result().token_ids == alone


def test_the_folder_says_what_it_is(resumed_run: Path) -> None:
    card = (resumed_run / "drafter" / "README.md").read_text()
    assert "2 recursions (MTP)" in card and "| drafter | chain | 0 | 64 | 1 |" in card
    assert (resumed_run / "drafter" / "evaluation.json").exists()


def test_the_registry_has_it_in_use(resumed_run: Path, tiny_target: TargetModel) -> None:
    registry = resumed_run / "registry"
    (record,) = Registry(str(registry)).records()
    assert Registry(str(registry)).promotions == [record.id]
    assert record.provenance["train"]["steps"] == STEPS and record.evaluation[0].bucket == "64"
    in_use, written = (
        load_drafter(str(folder), tiny_target).model.state_dict()
        for folder in (worker_draft(str(registry)), resumed_run / "drafter")
    )
    for name, weight in written.items():
        assert torch.equal(in_use[name], weight)
