"""The README's commands, run for real on the demo models and a few rendered videos: `python -m tests.readme_commands`.

Owns the list of the commands and what stands in for a real target, archive and port. It is no part of the test suite,
since most commands start Ray. `tests/test_readme.py` checks the same list in seconds.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TARGET, PORT = "Qwen/Qwen2.5-VL-7B-Instruct", 8000  # as the README has them
DEADLINE_S = 900

_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A command of the README: how it begins, what becomes of it, and what is added so that it is done soon.

    `parse` commands need a cluster or an installation of their own; tests only check that they would be understood.
    """

    begins: str
    kind: Literal["run", "serve", "parse"]
    more: str = ""


_SMALL_TRAINING = (
    " --set train.steps=4 --set train.warmup_steps=1 --set train.checkpoint_every=4 --set train.batch_size=2"
    " --set workers.train=1 --set workers.evaluate=1 --set evaluation.lengths=[64]"
    " --set evaluation.windows_per_length=2 --set evaluation.max_new_tokens=40"
)
STEPS = (
    Step("make caption", "parse"),
    Step(". .venv/bin/activate", "parse"),
    Step("python jobs/caption_corpus.py --input 'archive/**/*.mp4'", "run"),
    Step("ray job submit", "parse"),
    Step("import pandas", "run"),
    Step("python jobs/audit.py", "run"),
    Step("SPARROW_API_TOKEN=secret python jobs/serve.py", "serve", " --port {port}"),
    Step("from openai import OpenAI", "run"),
    Step("python jobs/capture_hidden_states.py", "run"),
    Step("python jobs/caption_corpus.py --input heldout/", "run"),
    Step("python jobs/distill_draft.py", "run", _SMALL_TRAINING),
    Step("python jobs/drafters.py list", "run"),
    Step("python jobs/caption_corpus.py --input more/", "run"),
)


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """The language and text of each command in a page's bash blocks, and of each python block as a whole."""
    for language, block in _BLOCK.findall(page.read_text()):
        if language == "python":
            yield language, block
        else:
            lines = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
            yield from ((language, line.strip()) for line in lines if line.strip() and not line.startswith("#"))


def substituted(text: str, step: Step, port: int) -> str:
    """The command for the demo target and a free port; folders are those of `prepare`."""
    with_target = text.replace(TARGET, str(ROOT / "demo/weights/target"))
    return with_target.replace(f":{PORT}/", f":{port}/") + step.more.format(port=port)


def prepare(work: Path) -> None:
    """A working directory in which the README's relative paths exist: the jobs, and three small archives."""
    for name in ("jobs", "demo"):
        (work / name).symlink_to(ROOT / name)
    render = [sys.executable, "-m"]
    _checked([*render, "demo.render_samples", str(work / "archive/more")], ROOT)
    shutil.move(work / "archive/more/sample-0.mp4", work / "archive/clip.mp4")
    for folder, split in (("heldout", "heldout"), ("more", "validation")):
        options = ["--videos", "4", "--split", split, "--lengths", "64"]
        _checked([*render, "demo.render_archive", str(work / folder), *options], ROOT)


def main() -> None:
    """Run every command in order; the first that fails ends the process with its output."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        work, server = Path(folder), None
        prepare(work)
        try:
            for step, (language, text) in zip(STEPS, commands(README), strict=True):
                if step.kind == "parse":
                    print(f"parsed only: {text}", flush=True)
                    continue
                began, command = time.monotonic(), substituted(text, step, port)
                run = ["bash", "-c", command] if language == "bash" else [sys.executable, "-c", command]
                if step.kind == "serve":
                    server = _start_server(run, work, port)
                else:
                    print(_checked(run, work), flush=True)
                    if server:
                        server = _stop_server(server)
                print(f"done in {time.monotonic() - began:.0f} s: {command}\n", flush=True)
        finally:
            if server:
                os.killpg(server.pid, signal.SIGKILL)
    print(f"all {len(STEPS)} commands of the README passed")


def _environment() -> dict[str, str]:
    """As after `. .venv/bin/activate`, on no cluster, and with a terminal that is wide enough to read."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "160"}
    environment.pop("RAY_ADDRESS", None)
    return environment


def _checked(command: list[str], folder: Path) -> str:
    """What a command prints. Ends the process where it fails."""
    done = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}: {shlex.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _start_server(command: list[str], folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """The endpoint, once it answers."""
    server = subprocess.Popen(command, cwd=folder, env=_environment(), start_new_session=True)
    began = time.monotonic()
    while server.poll() is None and time.monotonic() - began < DEADLINE_S:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                return server
        except OSError:
            time.sleep(1)
    sys.exit(f"the endpoint does not answer on port {port}: exit code {server.poll()}")


def _stop_server(server: "subprocess.Popen[bytes]") -> None:
    """Stop it as Ctrl-C does."""
    os.killpg(server.pid, signal.SIGINT)
    if code := server.wait(timeout=120):
        sys.exit(f"the endpoint ended with exit code {code}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
