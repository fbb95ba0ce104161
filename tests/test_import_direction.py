"""Imports point down, wing by wing, as the table of ARCHITECTURE.md says; each outside library has one home."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sparrow_core", "pipeline", "jobs", "demo")
FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def wing(path: Path) -> str:
    """A folder right below one of the two packages, or the package itself for what lies in its root."""
    parts = path.parts[:-1]
    return "/".join(parts[:2]) if parts[0] in ("sparrow_core", "pipeline") else parts[0]


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def wings_imported(path: Path) -> set[str]:
    """Other wings that a file imports from."""
    of_module = {str(file.with_suffix("")).replace("/", ".").removesuffix(".__init__"): wing(file) for file in FILES}
    return {of_module[name] for name in imported(path) if name in of_module} - {wing(path)}


def table() -> dict[str, set[str]]:
    """What each wing may import, by ARCHITECTURE.md: the rows `| \\`wing\\` | what it is | \\`other\\`, ... |`."""
    rows = re.findall(r"^\| `([\w/]+)` \|[^|]*\|([^|]*)\|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`([\w/]+)`", allowed)) for name, allowed in rows}


def test_the_table_is_what_the_code_does() -> None:
    """Neither more nor less: an arrow that nobody needs any more is taken out of the table."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        if path.name != "__init__.py" or imported(path):
            found.setdefault(wing(path), set()).update(wings_imported(path))
    assert found == table()


def test_wings_form_a_line() -> None:
    tuple(TopologicalSorter(table()).static_order())  # raises CycleError


def test_the_pipelines_root_is_empty() -> None:
    assert [path.name for path in (ROOT / "pipeline").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize(
    ("module", "homes"),
    [
        ("ray", ("pipeline/",)),
        ("transformers", ("sparrow_core/targets/", "demo/")),
        ("fsspec", ("pipeline/common/storage.py",)),
        ("av", ("sparrow_core/media/", "demo/")),
        ("decord", ("sparrow_core/media/",)),
        ("fastapi", ("pipeline/serving/",)),
    ],
)
def test_library_has_one_home(module: str, homes: tuple[str, ...]) -> None:
    importers = [str(path) for path in FILES if any(n == module or n.startswith(f"{module}.") for n in imported(path))]
    assert importers, f"nobody imports {module}; the rule is stale"
    assert [path for path in importers if not path.startswith(homes)] == []


def test_stages_know_no_ray() -> None:
    """What a stage does can be tried without a cluster."""
    stages = [path for path in FILES if "captioning/stages" in str(path)]
    assert stages and not any(name.split(".")[0] == "ray" for path in stages for name in imported(path))


CORE_WITHOUT_MEDIA = "decoding", "engine", "targets", "drafters"


def test_the_core_is_imported_without_ray_av_and_decord() -> None:
    """As on a machine that has torch and transformers alone."""
    modules = [
        str(path.with_suffix("")).replace("/", ".")
        for path in FILES
        if path.parts[0] == "sparrow_core" and path.parts[1] in CORE_WITHOUT_MEDIA and path.name != "__init__.py"
    ]
    blocked = "import sys; sys.modules |= dict.fromkeys(('ray', 'av', 'decord'))"
    code = f"{blocked}\nimport {', '.join(modules)}"
    outcome = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def reachable(module: str) -> Iterator[Path]:
    """Files that a module of ours brings in, itself among them."""
    seen, waiting = set(), [Path(module.replace(".", "/") + ".py")]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        yield path
        for name in imported(path):
            file = Path(name.replace(".", "/") + ".py")
            if (ROOT / file).exists() and file not in seen:
                waiting.append(file)


def test_processes_that_decode_videos_start_without_torch() -> None:
    """They are many, and torch takes 1.7 s of CPU and 200 MB in each."""
    modules = "pipeline.captioning.stages.probe, pipeline.captioning.stages.decode, sparrow_core.media.decode_child"
    code = f"import sys; sys.modules['torch'] = None\nimport {modules}, sparrow_core.media.patches"
    outcome = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize("module", ["sparrow_core.config", "pipeline.common.settings", "pipeline.common.ids"])
def test_settings_need_no_heavy_library(module: str) -> None:
    """They can be checked on a machine without torch, Ray or transformers."""
    names = {name.split(".")[0] for path in reachable(module) for name in imported(path)}
    assert not names & {"torch", "ray", "transformers"}
