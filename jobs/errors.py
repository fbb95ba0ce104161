"""How the commands tell errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from sparrow_core.errors import SparrowError


@contextmanager
def exit_on_error() -> Iterator[None]:
    """What a user can mend is told without a traceback, and ends the command with exit code 2."""
    try:
        yield
    except SparrowError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
