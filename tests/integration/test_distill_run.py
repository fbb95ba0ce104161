"""The distillation job killed in the middle: it resumes, ends where an unkilled run ends, and changes no word."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
import yaml
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from demo.windows import DemoWindows
from jobs.distill_draft import DistillJobConfig
from pipeline.checkpoints import worker_draft
from pipeline.config import build_config
from pipeline.registry import Registry
from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.target import TargetModel
from sparrow_core.distill.store import StateStore
from sparrow_core.distill.trainer import Trainer, Worker
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.engine.engine import Engine
from sparrow_core.models.drafter import DrafterConfig, SparrowDrafterModel
from sparrow_core.models.drafter_checkpoint import load_drafter

REPOSITORY = Path(__file__).parents[2]
STEPS = 120
CHECKPOINT_DEADLINE_S, RUN_DEADLINE_S = 300, 400

# About 60 s on two free cores; the limit allows for a machine that is busy with other things.
pytestmark = pytest.mark.timeout(900)


def job_settings(target: Path) -> dict:
    return {
        "target": str(target),
        "num_windows": 2,
        "capture": {"captions_per_window": 2, "max_new_tokens": 16},
        "train": {
            "steps": STEPS, "batch_size": 4, "recursions": 2, "bridge_share": 0.5, "checkpoint_every": 20,
            "warmup_steps": 5,
        },
        "workers": {"train": 2},
        "windows": {"split": "train", "lengths": [64], "first_seed": 7, "varied_prompts": False},
        "evaluation": {
            "lengths": [64], "windows_per_length": 1, "max_new_tokens": 12,
            "drafts": {"chain": {"depth": 3, "width": 1, "total": 4}},
        },
    }  # fmt: skip


def start_job(config: Path, output: Path, log: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_TOKEN": "test", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    folders = ["--output", str(output), "--registry", str(output / "registry")]
    command = [sys.executable, "jobs/distill_draft.py", "--config", str(config), *folders]
    with log.open("w") as stream:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("training/*/step-*"))


def has_recorded_checkpoint(output: Path) -> bool:
    """Whether Ray Train has noted a checkpoint in its own book, which is what it resumes from."""
    return any("step-" in book.read_text() for book in output.glob("training/*/checkpoint_manager_snapshot.json"))


def kill_after_a_recorded_checkpoint(job: subprocess.Popen, output: Path, log: Path) -> None:
    deadline = time.monotonic() + CHECKPOINT_DEADLINE_S
    while not has_recorded_checkpoint(output):
        assert job.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.wait()


def unkilled_worker(rank: int, states: str, geometry: DrafterConfig, config: DistillJobConfig, folder: str) -> None:
    """One of two plain workers over gloo, without Ray: the uninterrupted twin."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    store = StateStore(Path(states))
    torch.manual_seed(config.train.seed)
    model = UnrolledDrafter(SparrowDrafterModel(geometry), store.tables(), config.train)
    trainer = Trainer(DistributedDataParallel(model), store, config.train, Worker(rank, 2))
    trainer.run()
    if rank == 0:
        torch.save(trainer.state_dict()["drafter"], f"{folder}/unkilled.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def resumed_run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a job that was killed after its first recorded checkpoint and started again."""
    folder = tmp_path_factory.mktemp("distill")
    config, output = folder / "config.yaml", folder / "out"
    config.write_text(yaml.safe_dump(job_settings(tiny_checkpoint)))
    kill_after_a_recorded_checkpoint(start_job(config, output, folder / "killed.log"), output, folder / "killed.log")
    assert f"step-{STEPS:06d}" not in checkpoints(output), "the kill came too late to show anything"
    resumed = start_job(config, output, folder / "resumed.log")
    assert resumed.wait(RUN_DEADLINE_S) == 0, (folder / "resumed.log").read_text()[-4000:]
    assert "step 0:" not in (folder / "resumed.log").read_text()
    return output


def test_resumed_weights_equal_an_unkilled_run(
    resumed_run: Path, tiny_checkpoint: Path, tiny_target: TargetModel, tmp_path: Path
) -> None:
    config = build_config(DistillJobConfig, job_settings(tiny_checkpoint))
    geometry = DrafterConfig.for_target(tiny_target.info)
    (states,) = resumed_run.glob("states-*")
    arguments = (str(states), geometry, config, str(tmp_path))
    multiprocessing.start_processes(unkilled_worker, args=arguments, nprocs=2, start_method="spawn")
    unkilled = torch.load(tmp_path / "unkilled.pt")
    resumed = load_file(resumed_run / "drafter" / "model.safetensors")
    assert unkilled.keys() == resumed.keys()
    assert all(torch.equal(unkilled[name].bfloat16(), resumed[name]) for name in unkilled)


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
    assert "2 recursions (MTP)" in card and "| drafter | chain | 64 | 1 |" in card
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
