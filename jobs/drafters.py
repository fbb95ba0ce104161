"""Drafters on record: `python jobs/drafters.py list REGISTRY`, and `add`, `promote`, `rollback`."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.registry import Registry
from pipeline.report.acceptance import read_acceptance
from sparrow_core.errors import ConfigError, SparrowError

app = typer.Typer(help="Which drafters there are, which one is in use, and the way back.", no_args_is_help=True)
RegistryArgument = Annotated[str, typer.Argument(help="Folder or fsspec URL of the registry.")]
IdArgument = Annotated[str, typer.Argument(help="A drafter's id, as `list` shows it.")]


def told_errors(command: Callable[..., None]) -> Callable[..., None]:
    """What a user can mend is told in one line; exit code 2."""

    @wraps(command)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except SparrowError as error:
            Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error

    return guarded


@app.command()
@told_errors
def add(
    registry: RegistryArgument,
    drafter: Annotated[Path, typer.Argument(help="Folder of a drafter, as jobs/distill_draft.py writes it.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="Rows of jobs/evaluate_draft.py; else evaluation.json in the folder.")
    ] = None,
) -> None:
    """Put a measured drafter on record. It is not in use before it is promoted."""
    file = evaluation or drafter / "evaluation.json"
    rows = [row for row in read_acceptance(file) if row.drafter == drafter.name]
    if not rows:
        raise ConfigError(f"{file} has no row of a drafter {drafter.name!r}; measure it with jobs/evaluate_draft.py")
    provenance = drafter / "provenance.json"
    origin = json.loads(provenance.read_text()) if provenance.exists() else {}
    print(Registry(registry).add(drafter, origin, rows).id)


@app.command("list")
@told_errors
def show(registry: RegistryArgument) -> None:
    """Every drafter with tau by visual length; the one in use is marked."""
    found = Registry(registry)
    in_use = found.promotions[-1:]
    table = Table("", "id", "added", "draft", "tau by visual tokens", title=f"drafters in {registry}")
    for record in found.records():
        for shape in dict.fromkeys(row.draft for row in record.evaluation):
            taus = "  ".join(f"{row.bucket}: {row.tau:.2f}" for row in record.evaluation if row.draft == shape)
            table.add_row("in use" if [record.id] == in_use else "", record.id, record.added_at, shape, taus)
    Console().print(table)


@app.command()
@told_errors
def promote(
    registry: RegistryArgument,
    drafter: IdArgument,
    margin: Annotated[float, typer.Option(help="Relative gain in tau that it must exceed.")] = 0.0,
) -> None:
    """Bring a drafter into use if it is better than the one before on the same held-out windows."""
    for gain in Registry(registry).promote(drafter, margin):
        print(f"{gain.bucket} visual tokens: tau {gain.gain:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]")
    print(f"in use: {drafter}")


@app.command()
@told_errors
def rollback(registry: RegistryArgument) -> None:
    """Go back to the drafter that was in use before."""
    print(f"in use: {Registry(registry).rollback()}")


if __name__ == "__main__":
    app()
