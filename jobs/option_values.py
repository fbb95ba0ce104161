"""Parsers of option values: whole numbers, and counts of demo windows by visual length."""

import typer

from demo.windows import window_counts


def numbers(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers. Raises BadParameter for anything else."""
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not whole numbers such as 1,8") from error


def demo_windows(text: str, option: str, default: int | None = None) -> dict[int, int]:
    """Parse the value of `option` with `window_counts`, and raise BadParameter in place of ValueError."""
    try:
        return window_counts(text, default)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint=option) from error
