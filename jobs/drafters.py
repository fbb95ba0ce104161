"""Drafters on record: `python jobs/drafters.py list REGISTRY`; `--help` names what else there is."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.errors import exit_on_error
from pipeline.common.acceptance_rows import read_acceptance
from pipeline.common.registry import Registry, add_measured
from sparrow_core.drafters.artefact import save_drafter
from sparrow_core.drafters.eagle_import import import_drafter
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import load_target

app = typer.Typer(help="Which drafters there are, which one is in use, and the way back.", no_args_is_help=True)
RegistryArgument = Annotated[str, typer.Argument(help="Folder or fsspec URL of the registry.")]
IdArgument = Annotated[str, typer.Argument(help="A drafter's id, as `list` shows it.")]


@app.command()
@exit_on_error()
def add(
    registry: RegistryArgument,
    drafter: Annotated[Path, typer.Argument(help="Folder of a drafter, as jobs/distill_draft.py writes it.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="Rows of jobs/evaluate_draft.py; else evaluation.json in the folder.")
    ] = None,
) -> None:
    """Put a measured drafter on record. It is not in use before it is promoted."""
    print(add_measured(Registry(registry), drafter, evaluation).id)


@app.command()
@exit_on_error()
def measured(
    registry: RegistryArgument,
    evaluation: Annotated[Path, typer.Argument(help="Rows of jobs/evaluate_draft.py over REGISTRY/drafters/ID.")],
) -> None:
    """Put newer figures on the record of every drafter that they name, so that two can be compared."""
    found = Registry(registry)
    rows = read_acceptance(evaluation)
    named = {row.drafter for row in rows} & {record.id for record in found.records()}
    if not named:
        raise ConfigError(f"{evaluation} has no row of a drafter in {registry}: measure {registry}/drafters/ID")
    for drafter in sorted(named):
        found.measured_again(drafter, [row for row in rows if row.drafter == drafter])
        print(drafter)


@app.command("import")
@exit_on_error()
def take_over(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a published drafter of the EAGLE family.")],
    target: Annotated[str, typer.Option(help="The target that it was trained for: checkpoint folder or hub id.")],
    output: Annotated[Path, typer.Option(help="Folder for the drafter as ours.")],
) -> None:
    """Take over a drafter that others trained, by its tensors' names. Measure it before `add`."""
    model = import_drafter(checkpoint, load_target(target, device="cpu").info)
    save_drafter(output, model, f"# Drafter for `{Path(target).name}`, taken over from `{checkpoint.name}`\n")
    print(output)


@app.command("list")
@exit_on_error()
def show(registry: RegistryArgument) -> None:
    """Every drafter with tau by visual length; the one in use is marked."""
    found = Registry(registry)
    in_use = found.in_use
    table = Table("", "id", "added", "draft", "tau by visual tokens", title=f"drafters in {registry}")
    for record in found.records():
        taus: dict[str, list[str]] = defaultdict(list)
        for row in record.evaluation:
            taus[f"{row.draft}, T={row.temperature:g}"].append(f"{row.bucket}: {row.tau:.2f}")
        for shape, cells in taus.items():
            mark = "in use" if record.id == in_use else ""
            table.add_row(mark, record.id, record.added_at, shape, "  ".join(cells))
    Console().print(table)


@app.command()
@exit_on_error()
def promote(
    registry: RegistryArgument,
    drafter: IdArgument,
    margin: Annotated[float, typer.Option(help="Relative gain in tau that it must exceed.")] = 0.0,
) -> None:
    """Bring a drafter into use if it is better than the one before on the same held-out windows."""
    for gain in Registry(registry).promote(drafter, margin):
        print(f"{gain.bucket} visual tokens: tau {gain}")
    print(f"in use: {drafter}")


@app.command()
@exit_on_error()
def rollback(registry: RegistryArgument) -> None:
    """Go back to the drafter that was in use before."""
    print(f"in use: {Registry(registry).rollback()}")


if __name__ == "__main__":
    app()
