"""How numbers and numbers of demo windows are written on a command line."""

import typer

from demo.windows import window_counts


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers, comma separated."""
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not whole numbers such as 1,8") from error


def demo_windows(text: str, option: str, default: int | None = None) -> dict[int, int]:
    """`window_counts` of what was given for `option`."""
    try:
        return window_counts(text, default)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint=option) from error
