"""Reads the committed result files in docs/results, from which the tables of README and docs are generated."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Table = list[list[str]]  # cells, with the headings as first row

XEON, EPYC = "xeon-2-cores", "epyc-2-cores"  # folders of docs/results, one per machine


def read_result(results: Path, machine: str, name: str) -> Any:
    """The content of a result file; `name` is its path in the machine's folder, without `.json`."""
    return json.loads((results / machine / f"{name}.json").read_text())


def greedy_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows at temperature 0."""
    return [row for row in rows if row["temperature"] == 0]


def comparison_rows(results: Path, temperature: float) -> list[Row]:
    """The methods' rows of the paper's comparison at one temperature."""
    return [row for row in read_result(results, EPYC, "paper_tables")["rows"] if row["temperature"] == temperature]


def decode_speedup_ranks(rows: Iterable[Row]) -> dict[tuple[str, int], int]:
    """Rank of each row of the paper's comparison by decode speedup at its length, by method and length. 1 is fastest;
    equal speedups share a rank."""
    rows = list(rows)
    return {
        (row["method"], row["visual_tokens"]): 1
        + sum(
            other["decode_speedup"] > row["decode_speedup"]
            for other in rows
            if other["visual_tokens"] == row["visual_tokens"]
        )
        for row in rows
    }


def figure(value: float | None) -> str:
    """A number with two decimals; "-" for None."""
    return "-" if value is None else f"{value:.2f}"
