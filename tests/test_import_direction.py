"""Imports point down: jobs -> pipeline -> sparrow_core, and each outside library has one home."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sparrow_core", "pipeline", "jobs", "demo")


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def importers(module: str, folder: str) -> list[str]:
    """Files below `folder` that import `module` or anything inside it."""
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        if any(name == module or name.startswith(f"{module}.") for name in imported(path))
    )


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("sparrow_core", ("ray", "pipeline", "jobs", "demo", "fsspec", "pyarrow")),
        ("sparrow_core/decoding", ("transformers", "sparrow_core.models", "sparrow_core.engine", "sparrow_core.media")),
        ("sparrow_core/engine", ("transformers", "sparrow_core.models", "sparrow_core.distill")),
        ("sparrow_core/models", ("sparrow_core.engine", "sparrow_core.distill")),
        ("sparrow_core/media", ("transformers", "sparrow_core.models", "sparrow_core.decoding")),
        ("pipeline", ("transformers", "jobs", "demo")),
        ("pipeline/stages", ("ray",)),
        ("demo", ("ray", "pipeline", "jobs")),
    ],
)
def test_folder_does_not_import(folder: str, forbidden: tuple[str, ...]) -> None:
    assert {module: importers(module, folder) for module in forbidden} == {module: [] for module in forbidden}


@pytest.mark.parametrize(
    ("module", "home"),
    [
        ("ray", "pipeline/"),
        ("transformers", "sparrow_core/models/"),
        ("fsspec", "pipeline/storage.py"),
    ],
)
def test_library_has_one_home(module: str, home: str) -> None:
    outside = [path for folder in ("sparrow_core", "pipeline") for path in importers(module, folder)]
    assert outside, f"nobody imports {module}; the rule is stale"
    assert [path for path in outside if not path.startswith(home)] == []


def test_config_needs_no_heavy_library() -> None:
    """Settings can be checked on a machine without torch, Ray or transformers."""
    reachable, waiting = set(), ["sparrow_core.config"]
    while waiting:
        path = ROOT / (waiting.pop().replace(".", "/") + ".py")
        for name in imported(path):
            module = name if (ROOT / (name.replace(".", "/") + ".py")).exists() else name.rpartition(".")[0]
            if module.startswith("sparrow_core.") and module not in reachable:
                reachable.add(module)
                waiting.append(module)
            assert name.split(".")[0] not in {"torch", "ray", "transformers"}, f"{path} imports {name}"
