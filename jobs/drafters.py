"""Manage a registry of drafters: `python jobs/drafters.py list REGISTRY`; `--help` lists the other commands."""

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

app = typer.Typer(help="List, add, promote, roll back and import drafters of a registry.", no_args_is_help=True)
RegistryArgument = Annotated[str, typer.Argument(help="Folder or fsspec URL of the registry.")]
IdArgument = Annotated[str, typer.Argument(help="A drafter's id, as `list` shows it.")]


@app.command()
@exit_on_error()
def add(
    registry: RegistryArgument,
    drafter: Annotated[Path, typer.Argument(help="Folder of a drafter, as jobs/distill_draft.py writes it.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="Rows of jobs/evaluate_draft.py. Default: evaluation.json in the folder.")
    ] = None,
) -> None:
    """Add a measured drafter to the registry. It is not in use until it is promoted."""
    print(add_measured(Registry(registry), drafter, evaluation).id)


@app.command("measured")
@exit_on_error()
def update_evaluations(
    registry: RegistryArgument,
    evaluation: Annotated[Path, typer.Argument(help="Rows of jobs/evaluate_draft.py for REGISTRY/drafters/ID.")],
) -> None:
    """Replace the recorded evaluation of each drafter in the file, so that they can be compared."""
    drafters = Registry(registry)
    rows = read_acceptance(evaluation)
    named = {row.drafter for row in rows} & {record.id for record in drafters.records()}
    if not named:
        raise ConfigError(f"{evaluation} has no row of a drafter in {registry}: measure {registry}/drafters/ID")
    for drafter in sorted(named):
        drafters.update_evaluation(drafter, [row for row in rows if row.drafter == drafter])
        print(drafter)


@app.command("import")
@exit_on_error()
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a published drafter of the EAGLE family.")],
    target: Annotated[str, typer.Option(help="The target that it was trained for: checkpoint folder or hub id.")],
    output: Annotated[Path, typer.Option(help="Folder for the imported drafter.")],
) -> None:
    """Import a published drafter, whose weights are recognised by their tensors' names. Measure it before `add`."""
    model = import_drafter(checkpoint, load_target(target, device="cpu").info)
    save_drafter(output, model, f"# Drafter for `{Path(target).name}`, imported from `{checkpoint.name}`\n")
    print(output)


@app.command("list")
@exit_on_error()
def list_drafters(registry: RegistryArgument) -> None:
    """List all drafters with tau by visual length; the one in use is marked."""
    drafters = Registry(registry)
    in_use = drafters.in_use
    table = Table("", "id", "added", "draft", "tau by visual tokens", title=f"drafters in {registry}")
    for record in drafters.records():
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
    """Bring a drafter into use if it is better than the one in use on the same held-out windows."""
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
