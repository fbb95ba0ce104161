"""Generates the tables of README and docs from committed result files.

A table replaces whatever stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.common.markdown import markdown_table
from sparrow_core.errors import ConfigError
from sparrow_core.measure.names import AUTOREGRESSIVE, GOVERNOR, LIBRARY, LIBRARY_LOOKUP

Row = Mapping[str, Any]
Table = list[list[str]]  # cells, the headings first
_BLOCK = re.compile(r"(?<=<!-- table: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)

XEON, EPYC = "xeon-2-cores", "epyc-2-cores"  # folders of docs/results, one for each machine
EQUALITY_CHECKS = ("equality", "equality_repeated", "equality_oracle_float32", "equality_oracle_bfloat16")
LABELS = {  # names in result files -> names in tables, in the order of a table's rows
    "sparrow": "Sparrow",
    "text_only": "text only (HiViS)",
    "msd": "MSD",
    "vispec": "ViSpec",
    "specvlm": "SpecVLM",
    "no_ivsb": "without IVSB",
    "no_mtp": "without MTP",
    "blind": "blind: the target's states zeroed",
    "prompt_lookup": "prompt lookup",
    "none": "no drafter",
    LIBRARY: "transformers `generate`",
    LIBRARY_LOOKUP: "its prompt lookup",
    AUTOREGRESSIVE: "our autoregressive loop",
}


def with_tables(text: str, results: Path) -> str:
    """The text with every table generated from the files under `results`. Raises ConfigError for an unknown table."""

    def block(match: re.Match[str]) -> str:
        name, rest = match.groups()
        if name not in TABLES:
            raise ConfigError(f"there is no table {name}; there are {', '.join(TABLES)}")
        head, *body = TABLES[name](results)
        return f"{name}{rest}{markdown_table(head, body)}\n"

    return _BLOCK.sub(block, text)


def headline(results: Path) -> Table:
    """The main figures, one per row, each with its result file, whose folder names the machine."""
    return [
        ["measured", "figure", "result file"],
        *_equality_lines(results),
        _tau_line(results),
        *_speedup_lines(results),
        _rivals_line(results),
    ]


def _equality_lines(results: Path) -> Table:
    checks = {name: _read(results / XEON / f"{name}.json") for name in EQUALITY_CHECKS}
    generate = {name: [check["greedy"]] for name, check in checks.items() if check["against"] == "generate"}
    loop = {name: [check["sampled"]] for name, check in checks.items() if check["sampled"]["comparisons"]}
    for name in checks.keys() - generate.keys():
        loop[name].append(checks[name]["greedy"])
    against = {
        "captions that differ from transformers' `generate`, greedy": generate,
        "captions that differ from our autoregressive loop, greedy and sampled": loop,
    }
    return [
        [what, _differing(chain(*found.values())), ", ".join(_file(XEON, name) for name in found)]
        for what, found in against.items()
    ]


def _tau_line(results: Path) -> list[str]:
    greedy = [row for row in _greedy(_read(results / EPYC / "acceptance.json")) if row["draft"] == "tree of 25"]
    rows = [row for row in greedy if row["drafter"] == "sparrow"]
    lengths = _joined(f"{int(row['bucket']):,}" for row in rows)
    what = f"tau (tokens per target call) of draft trees of 25, at {lengths} visual tokens"
    return [what, _joined(_number(row["tau"]) for row in rows), _file(EPYC, "acceptance")]


def _speedup_lines(results: Path) -> Table:
    greedy = _greedy(_read(results / EPYC / "speed/results.json")["rows"])
    rows = [row for row in greedy if row["method"] == GOVERNOR and row["batch"] == 1]
    lengths = _joined(f"{row['visual_tokens']:,}" for row in rows)
    kinds = {
        f"decode speedup over our autoregressive loop, at {lengths} visual tokens": "decode_speedup",
        "end-to-end speedup at the same lengths, vision and prefill included": "end_to_end_speedup",
    }
    return [
        [what, _joined(_number(row[column]) for row in rows), _file(EPYC, "speed/results")]
        for what, column in kinds.items()
    ]


def _rivals_line(results: Path) -> list[str]:
    by_length: dict[int, dict[str, float]] = defaultdict(dict)
    for row in _compared(results, 0.0):
        by_length[row["visual_tokens"]][row["method"]] = row["decode_speedup"]
    ranks = {sorted(speedups.values(), reverse=True).index(speedups["sparrow"]) + 1 for speedups in by_length.values()}
    own = [speedups["sparrow"] for speedups in by_length.values()]
    num_methods = max(map(len, by_length.values()))
    what = (
        f"decode speedup and rank among {num_methods} methods, {min(by_length):,} to {max(by_length):,} visual tokens"
    )
    figure = f"{min(own):.2f} to {max(own):.2f}, rank {' or '.join(map(str, sorted(ranks)))}"
    return [what, figure, _file(EPYC, "paper_tables")]


def acceptance(results: Path, draft: str) -> Table:
    """Greedy tau of each drafter in one draft shape, by visual tokens."""
    rows = [row for row in _greedy(_read(results / EPYC / "acceptance.json")) if row["draft"] == draft]
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
            LABELS.get(row["method"], row["method"]),
            _number(row["tau"]),
            _number(row["round_cost"]),
            f"{row['tokens_per_s']:.0f}",
            _number(row["decode_speedup"]),
            _number(row["speedup_over_generate"]),
            _number(row["end_to_end_speedup"]),
            f"{row['end_to_end_bound']:.1f}",
        ]
        for row in _greedy(_read(results / EPYC / "speed/results.json")["rows"])
        if row["batch"] == 1
    ]


def passes(results: Path) -> Table:
    """Time of a pass by its rows and context, also in autoregressive steps."""
    found = _read(results / EPYC / "speed/results.json")["passes"]
    return _crossed("rows of a pass", {(str(row["rows"]), row["context"]): _pass(row) for row in found}, " slots")


def bfloat16(results: Path) -> Table:
    """Greedy decoding in bfloat16: the autoregressive loop and the governor, by visual tokens."""
    folders = ("speed_bfloat16", "speed_bfloat16_25k")
    rows = [row for name in folders for row in _greedy(_read(results / XEON / name / "results.json")["rows"])]
    by_mode = {(row["method"], row["visual_tokens"]): row for row in rows}
    head = [
        "visual tokens", "autoregressive loop", "over `generate`", "governor", "decode speedup", "over `generate`",
        "end to end",
    ]  # fmt: skip
    return [head] + [
        [
            f"{length:,}",
            f"{loop['tokens_per_s']:.0f} tokens/s",
            _number(loop["speedup_over_generate"]),
            f"{governor['tokens_per_s']:.0f} tokens/s",
            _number(governor["decode_speedup"]),
            _number(governor["speedup_over_generate"]),
            _number(governor["end_to_end_speedup"]),
        ]
        for length in sorted({length for _, length in by_mode})
        for loop, governor in [(by_mode[AUTOREGRESSIVE, length], by_mode[GOVERNOR, length])]
    ]


def method_taus(results: Path, temperature: float) -> Table:
    """Tau of the methods of the paper's comparison, by visual tokens."""
    return _by_method(f"tau, T={temperature:g}", _compared(results, temperature), _tau)


def method_speedups(results: Path, temperature: float) -> Table:
    """Decode speedup and rank of the methods of the paper's comparison, by visual tokens."""
    rows = _compared(results, temperature)
    by_length: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        by_length[row["visual_tokens"]].append(row["decode_speedup"])

    def ranked(row: Row) -> str:
        rank = 1 + sum(other > row["decode_speedup"] for other in by_length[row["visual_tokens"]])
        return f"{_interval(row, 'decode_speedup')} #{rank}"

    return _by_method(f"decode speedup, T={temperature:g}", rows, ranked)


def speedups_after_prefill(results: Path) -> Table:
    """Greedy decode speedup of the methods without the time of the drafter's own prefill, by visual tokens."""
    return _by_method(
        "drafter's prefill left out, T=0",
        _compared(results, 0.0),
        lambda row: _number(row["speedup_after_drafter_prefill"]),
    )


def ablation(results: Path) -> Table:
    """Ratio of each ablation's greedy tau to Sparrow's on the same windows, by visual tokens."""
    rows = _read(results / EPYC / "paper_tables.json")["ablation"]
    return _crossed(
        "tau over Sparrow's", {(row["method"], row["visual_tokens"]): _interval(row, "tau_ratio") for row in rows}
    )


def layers(results: Path) -> Table:
    """The layer study: facts right and cosine, by layer."""
    found = _read(results / EPYC / "paper_tables.json")["layers"]
    return [["without visual tokens from layer", "facts right", "cosine to the input"]] + [
        [str(row["layer"]), f"{row['fact_score']:.2f}", _number(row["cosine"])] for row in found
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


def _differing(checks: Iterable[Row]) -> str:
    """The number of unequal captions and of all that were compared."""
    checks = list(checks)
    unequal, compared = sum(len(c["unequal"]) for c in checks), sum(c["comparisons"] for c in checks)
    return f"{unequal} of {compared:,}"


def _file(machine: str, name: str) -> str:
    """A link from the README."""
    return f"[{name.partition('/')[0]}](docs/results/{machine}/{name}.json)"


def _joined(cells: Iterable[str]) -> str:
    return " / ".join(cells)


def _greedy(rows: Iterable[Row]) -> list[Any]:
    """Rows at temperature 0."""
    return [row for row in rows if row["temperature"] == 0]


def _compared(results: Path, temperature: float) -> list[Row]:
    rows = _read(results / EPYC / "paper_tables.json")["rows"]
    return sorted(
        (row for row in rows if row["temperature"] == temperature), key=lambda row: list(LABELS).index(row["method"])
    )


def _by_method(corner: str, rows: Iterable[Row], cell: Callable[[Row], str]) -> Table:
    """One table row per method, one column per visual length; `cell` formats a row of the paper's comparison."""
    return _crossed(corner, {(LABELS[row["method"]], row["visual_tokens"]): cell(row) for row in rows})


def _crossed(corner: str, cells: Mapping[tuple[str, int], str], unit: str = "") -> Table:
    """One table row per name, in order of first occurrence, and one column per length."""
    names, lengths = dict.fromkeys(name for name, _ in cells), sorted({length for _, length in cells})
    head = [corner, *(f"{length:,}{unit}" for length in lengths)]
    return [head, *([name, *(cells.get((name, length), "-") for length in lengths)] for name in names)]


def _tau(row: Row) -> str:
    return _number(row["tau"]) if row["tau_low"] == row["tau_high"] else _interval(row, "tau")


def _interval(row: Row, name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _pass(row: Row) -> str:
    steps = "" if row["rows"] == 1 else f", {row['ar_steps']:.2f} steps"
    return f"{row['ms']:.1f} ms{steps}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
