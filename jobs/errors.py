"""Reports errors that a user can fix: a message on stderr, no traceback, and exit code 2."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from sparrow_core.errors import SparrowError


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a SparrowError without a traceback, and end the command with exit code 2."""
    try:
        yield
    except SparrowError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
