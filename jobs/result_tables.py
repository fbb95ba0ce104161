"""Rewrite the tables of README and docs from the files in docs/results: `python -m jobs.result_tables`."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.errors import exit_on_error
from pipeline.comparison.result_tables import with_tables

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs/benchmarks.md", ROOT / "docs/paper_tables.md")


def main(
    results: Annotated[Path, typer.Option(help="Folder of result files.", exists=True)] = ROOT / "docs/results",
) -> None:
    """Regenerate all tables in README and docs.

    Exit codes: 0 done; 2 unknown table.
    """
    with exit_on_error():
        for page in PAGES:
            page.write_text(with_tables(page.read_text(), results))


if __name__ == "__main__":
    typer.run(main)
