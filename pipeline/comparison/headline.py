"""Generates the README's headline table: equality, tau, speedups and rank among methods, one figure per row."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from pipeline.comparison.result_files import (
    EPYC,
    XEON,
    Row,
    Table,
    comparison_rows,
    decode_speedup_ranks,
    figure,
    greedy_rows,
    read_result,
)
from sparrow_core.measure.names import GOVERNOR

EQUALITY_CHECKS = ("equality", "equality_repeated", "equality_oracle_float32", "equality_oracle_bfloat16")


def headline(results: Path) -> Table:
    """The main figures, one per row, each with a link to its result file; the file's folder names the machine."""
    return [
        ["measured", "figure", "result file"],
        *_equality_lines(results),
        _tau_line(results),
        *_speedup_lines(results),
        _rank_line(results),
    ]


def _equality_lines(results: Path) -> Table:
    checks = {name: read_result(results, XEON, name) for name in EQUALITY_CHECKS}
    generate = {name: [check["greedy"]] for name, check in checks.items() if check["against"] == "generate"}
    loop = {name: [check["sampled"]] for name, check in checks.items() if check["sampled"]["comparisons"]}
    for name in checks.keys() - generate.keys():
        loop[name].append(checks[name]["greedy"])
    references = {
        "captions that differ from transformers' `generate`, greedy": generate,
        "captions that differ from our autoregressive loop, greedy and sampled": loop,
    }
    return [
        [what, _num_different(chain(*by_file.values())), ", ".join(_link(XEON, name) for name in by_file)]
        for what, by_file in references.items()
    ]


def _tau_line(results: Path) -> list[str]:
    greedy = [row for row in greedy_rows(read_result(results, EPYC, "acceptance")) if row["draft"] == "tree of 25"]
    rows = [row for row in greedy if row["drafter"] == "sparrow"]
    lengths = _joined(f"{int(row['bucket']):,}" for row in rows)
    what = f"tau (tokens per target call) of draft trees of 25, at {lengths} visual tokens"
    return [what, _joined(figure(row["tau"]) for row in rows), _link(EPYC, "acceptance")]


def _speedup_lines(results: Path) -> Table:
    greedy = greedy_rows(read_result(results, EPYC, "speed/results")["rows"])
    rows = [row for row in greedy if row["method"] == GOVERNOR and row["batch"] == 1]
    lengths = _joined(f"{row['visual_tokens']:,}" for row in rows)
    columns = {
        f"decode speedup over our autoregressive loop, at {lengths} visual tokens": "decode_speedup",
        "end-to-end speedup at the same lengths, vision and prefill included": "end_to_end_speedup",
    }
    return [
        [what, _joined(figure(row[column]) for row in rows), _link(EPYC, "speed/results")]
        for what, column in columns.items()
    ]


def _rank_line(results: Path) -> list[str]:
    rows = comparison_rows(results, 0.0)
    sparrows = [row for row in rows if row["method"] == "sparrow"]
    lengths, speedups = [row["visual_tokens"] for row in sparrows], [row["decode_speedup"] for row in sparrows]
    ranks = {rank for (method, _), rank in decode_speedup_ranks(rows).items() if method == "sparrow"}
    num_methods = len({row["method"] for row in rows})
    what = f"decode speedup and rank among {num_methods} methods, {min(lengths):,} to {max(lengths):,} visual tokens"
    speedup_and_rank = f"{min(speedups):.2f} to {max(speedups):.2f}, rank {' or '.join(map(str, sorted(ranks)))}"
    return [what, speedup_and_rank, _link(EPYC, "paper_tables")]


def _num_different(checks: Iterable[Row]) -> str:
    """The number of unequal captions out of all that were compared."""
    checks = list(checks)
    unequal, compared = sum(len(c["unequal"]) for c in checks), sum(c["comparisons"] for c in checks)
    return f"{unequal} of {compared:,}"


def _link(machine: str, name: str) -> str:
    """A Markdown link from the README to a result file."""
    return f"[{name.partition('/')[0]}](docs/results/{machine}/{name}.json)"


def _joined(cells: Iterable[str]) -> str:
    return " / ".join(cells)
