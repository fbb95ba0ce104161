"""Make the README's tables anew from docs/results: `python -m jobs.readme_tables`."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.errors import told_errors
from pipeline.report.readme import with_tables

ROOT = Path(__file__).parents[1]


def main(
    results: Annotated[Path, typer.Option(help="Folder of result files.", exists=True)] = ROOT
    / "docs/results/xeon-2-cores",
    readme: Annotated[Path, typer.Option(help="Rewritten.", exists=True)] = ROOT / "README.md",
) -> None:
    """Exit codes: 0 done; 2 unknown table."""
    with told_errors():
        readme.write_text(with_tables(readme.read_text(), results))


if __name__ == "__main__":
    typer.run(main)
