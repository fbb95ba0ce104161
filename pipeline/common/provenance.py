"""Provenance of results: versions of the code and its libraries, which are equal on every host of an installation."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "av", "decord")


def provenance() -> dict[str, str | None]:
    """Versions by name; None for a package that is not installed, and for `sparrow_commit` outside a git checkout."""
    versions = {package: _version(package) for package in _PACKAGES}
    return {"sparrow_commit": _commit(), "python": platform.python_version(), **versions}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that holds this file, with "+changes" appended if tracked files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changes = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if changes.returncode else "")
