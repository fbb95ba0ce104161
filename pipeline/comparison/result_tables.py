"""Generates the tables of README and docs from the committed result files.

The text between `<!-- table: NAME -->` and `<!-- end -->` is replaced by the table of that name.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipeline.common.markdown import markdown_table
from pipeline.comparison.headline import headline
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
from sparrow_core.errors import ConfigError
from sparrow_core.measure.names import AUTOREGRESSIVE, GOVERNOR, LIBRARY, LIBRARY_LOOKUP

_BLOCK = re.compile(r"(?<=<!-- table: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)

LABELS = {  # names in result files -> names in tables, in the order of the tables' rows
    "sparrow": "Sparrow",
    "text_only": "text only (HiViS)",
    "msd": "MSD",
    "vispec": "ViSpec",
    "specvlm": "SpecVLM",
    "no_ivsb": "without IVSB",
    "no_mtp": "without MTP",
    "blind": "blind: the target's hidden states zeroed",
    "prompt_lookup": "prompt lookup",
    "none": "no drafter",
    LIBRARY: "transformers `generate`",
    LIBRARY_LOOKUP: "its prompt lookup",
    AUTOREGRESSIVE: "our autoregressive loop",
}


def with_tables(text: str, results: Path) -> str:
    """The text with every table regenerated from the files under `results`. Raises ConfigError for an unknown table."""

    def regenerate(match: re.Match[str]) -> str:
        name, rest = match.groups()
        if name not in TABLES:
            raise ConfigError(f"there is no table {name}; there are {', '.join(TABLES)}")
        head, *body = TABLES[name](results)
        return f"{name}{rest}{markdown_table(head, body)}\n"

    return _BLOCK.sub(regenerate, text)


def acceptance(results: Path, draft: str) -> Table:
    """Greedy tau of each drafter in one draft shape, by visual tokens."""
    rows = [row for row in greedy_rows(read_result(results, EPYC, "acceptance")) if row["draft"] == draft]
    rows.sort(key=lambda row: list(LABELS).index(row["drafter"]))
    return _crossed(draft, {(LABELS[row["drafter"]], int(row["bucket"])): _tau(row) for row in rows})


def speed(results: Path) -> Table:
    """Greedy decoding in float32, by visual tokens and decode mode."""
    head = [
        "visual tokens", "method", "tau", "round cost", "tokens/s", "decode speedup", "over `generate`", "end to end",
        "its bound",
    ]  # fmt: skip
    return [head] + [
        [
            f"{row['visual_tokens']:,}",
            LABELS.get(row["method"], str(row["method"])),
            figure(row["tau"]),
            figure(row["round_cost"]),
            f"{row['tokens_per_s']:.0f}",
            figure(row["decode_speedup"]),
            figure(row["speedup_over_generate"]),
            figure(row["end_to_end_speedup"]),
            f"{row['end_to_end_bound']:.1f}",
        ]
        for row in greedy_rows(read_result(results, EPYC, "speed/results")["rows"])
        if row["batch"] == 1
    ]


def passes(results: Path) -> Table:
    """Time of a pass by its rows and context, in ms and in autoregressive steps."""
    timed = read_result(results, EPYC, "speed/results")["passes"]
    return _crossed("rows of a pass", {(str(row["rows"]), row["context"]): _pass(row) for row in timed}, " slots")


def bfloat16(results: Path) -> Table:
    """Greedy decoding in bfloat16: the autoregressive loop and the governor, by visual tokens."""
    folders = ("speed_bfloat16", "speed_bfloat16_25k")
    rows = [row for name in folders for row in greedy_rows(read_result(results, XEON, f"{name}/results")["rows"])]
    by_mode = {(row["method"], row["visual_tokens"]): row for row in rows}
    head = [
        "visual tokens", "autoregressive loop", "over `generate`", "governor", "decode speedup", "over `generate`",
        "end to end",
    ]  # fmt: skip
    return [head] + [
        [
            f"{length:,}",
            f"{loop['tokens_per_s']:.0f} tokens/s",
            figure(loop["speedup_over_generate"]),
            f"{governor['tokens_per_s']:.0f} tokens/s",
            figure(governor["decode_speedup"]),
            figure(governor["speedup_over_generate"]),
            figure(governor["end_to_end_speedup"]),
        ]
        for length in sorted({length for _, length in by_mode})
        for loop, governor in [(by_mode[AUTOREGRESSIVE, length], by_mode[GOVERNOR, length])]
    ]


def method_taus(results: Path, temperature: float) -> Table:
    """Tau of the methods of the paper's comparison, by visual tokens."""
    return _by_method(f"tau, T={temperature:g}", comparison_rows(results, temperature), _tau)


def method_speedups(results: Path, temperature: float) -> Table:
    """Decode speedup and rank of the methods of the paper's comparison, by visual tokens."""
    rows = comparison_rows(results, temperature)
    ranks = decode_speedup_ranks(rows)

    def ranked(row: Row) -> str:
        return f"{_interval(row, 'decode_speedup')} #{ranks[row['method'], row['visual_tokens']]}"

    return _by_method(f"decode speedup, T={temperature:g}", rows, ranked)


def speedups_after_prefill(results: Path) -> Table:
    """Greedy decode speedup of the methods, the time of the drafter's prefill left out, by visual tokens."""
    return _by_method(
        "drafter's prefill left out, T=0",
        comparison_rows(results, 0.0),
        lambda row: figure(row["speedup_after_drafter_prefill"]),
    )


def ablation(results: Path) -> Table:
    """Ratio of each ablation's greedy tau to Sparrow's on the same windows, by visual tokens."""
    rows = read_result(results, EPYC, "paper_tables")["ablation"]
    return _crossed(
        "tau over Sparrow's", {(row["method"], row["visual_tokens"]): _interval(row, "tau_ratio") for row in rows}
    )


def layers(results: Path) -> Table:
    """The layer study: share of facts right and cosine, by layer."""
    rows = read_result(results, EPYC, "paper_tables")["layers"]
    return [["without visual tokens from layer", "facts right", "cosine to the input"]] + [
        [str(row["layer"]), f"{row['fact_score']:.2f}", figure(row["cosine"])] for row in rows
    ]


TABLES: Mapping[str, Callable[[Path], Table]] = {
    "headline": headline,
    "acceptance-tree": lambda results: acceptance(results, "tree of 25"),
    "acceptance-chain": lambda results: acceptance(results, "chain of 4"),
    "speed": speed,
    "passes": passes,
    "bfloat16": bfloat16,
    "methods-tau-greedy": lambda results: method_taus(results, 0.0),
    "methods-tau-sampled": lambda results: method_taus(results, 1.0),
    "methods-speedup-greedy": lambda results: method_speedups(results, 0.0),
    "methods-speedup-sampled": lambda results: method_speedups(results, 1.0),
    "methods-speedup-after-prefill": speedups_after_prefill,
    "ablation": ablation,
    "layers": layers,
}


def _by_method(corner: str, rows: Iterable[Row], cell: Callable[[Row], str]) -> Table:
    """One table row per method, one column per visual length; `cell` formats a row of the paper's comparison."""
    ordered = sorted(rows, key=lambda row: list(LABELS).index(row["method"]))
    return _crossed(corner, {(LABELS[row["method"]], row["visual_tokens"]): cell(row) for row in ordered})


def _crossed(corner: str, cells: Mapping[tuple[str, int], str], unit: str = "") -> Table:
    """A table of cells by (name, length): one row per name, in order of first occurrence, one column per length."""
    names, lengths = dict.fromkeys(name for name, _ in cells), sorted({length for _, length in cells})
    head = [corner, *(f"{length:,}{unit}" for length in lengths)]
    return [head, *([name, *(cells.get((name, length), "-") for length in lengths)] for name in names)]


def _tau(row: Row) -> str:
    return figure(row["tau"]) if row["tau_low"] == row["tau_high"] else _interval(row, "tau")


def _interval(row: Row, name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _pass(row: Row) -> str:
    steps = "" if row["rows"] == 1 else f", {row['ar_steps']:.2f} steps"
    return f"{row['ms']:.1f} ms{steps}"
