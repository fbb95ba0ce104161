"""README and docs: every command is known and would be understood, links lead somewhere, the one number is measured.

`python -m tests.readme_commands` runs the README's commands for real.
"""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from ray.dashboard.modules.job.cli import submit

from tests.readme_commands import README, ROOT, STEPS, commands

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, ARCHITECTURE, ROOT / "CHANGELOG.md", *DOCS]
COMMANDS = [
    pytest.param(command, id=f"{page.name}: {command[:60]}")
    for page in PAGES
    for language, command in commands(page)
    if language == "bash"
]


def test_every_command_of_the_readme_has_an_entry() -> None:
    found = [text for _, text in commands(README)]
    unknown = [text for text, step in zip(found, STEPS, strict=False) if not text.startswith(step.begins)]
    assert not unknown and len(found) == len(STEPS), "add the command to STEPS of tests/readme_commands.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str) -> None:
    """The script or make target exists, and knows every flag."""
    words = shlex.split(command)
    while "=" in words[0]:  # variables of the environment
        words.pop(0)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == ".":
        assert words[1:] == [".venv/bin/activate"]
    elif words[:3] == ["ray", "job", "submit"]:
        split = words.index("--")
        assert unknown_flags(submit, words[3:split]) == []
        check_python(words[split + 1 :])
    else:
        check_python(words)


def check_python(words: list[str]) -> None:
    assert words[0] == "python"
    name, rest = (words[2], words[3:]) if words[1] == "-m" else (words[1].removesuffix(".py"), words[2:])
    module = importlib.import_module(name.replace("/", "."))
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(module.main)
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):  # a group: the next word names the command
        command = command.commands[rest.pop(0)]
    assert unknown_flags(command, rest) == []


def unknown_flags(command: Any, words: list[str]) -> list[str]:
    """Flags that the command's `--help` does not list."""
    known = {option for parameter in command.params for option in parameter.opts}
    return [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]


def test_an_unknown_flag_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="--inputs"):
        check_python(shlex.split("python jobs/caption_corpus.py --inputs archive/ --output out"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def anchors(page: Path) -> set[str]:
    """What headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_architecture_names_what_is_there() -> None:
    """Paths in backticks exist, and `file.py:name` is defined in that file."""
    for file, name in re.findall(r"`([\w/]+\.(?:py|yaml|md))(?::([\w.]+))?`", ARCHITECTURE.read_text()):
        if "/" not in file:
            continue  # named beside its folder
        assert (ROOT / file).exists(), file
        assert not name or name in definitions(ROOT / file), f"{file} defines no {name}"


def definitions(file: Path) -> set[str]:
    """Top-level names of a module, and `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            members = [member for member in node.body if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)]
            names |= {node.name, *(f"{node.name}.{member.name}" for member in members)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_the_readme_is_short_and_its_one_number_is_measured() -> None:
    text = README.read_text()
    assert len(text.splitlines()) < 150
    rows = json.loads((ROOT / "docs/results/epyc-2-cores/speed/results.json").read_text())["rows"]
    speedups = [
        row["decode_speedup"]
        for row in rows
        if (row["method"], row["batch"], row["temperature"]) == ("governor", 1, 0.0)
    ]
    assert f"{min(speedups):.1f} times as fast" in text.replace("\n", " ")
