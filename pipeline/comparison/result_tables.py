"""Tables of README and docs from committed result files: all between `<!-- table: NAME -->` and `<!-- end -->`."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.common.markdown import markdown_table
from sparrow_core.errors import ConfigError

Row = Mapping[str, Any]
Table = list[list[str]]  # cells, the headings first
_BLOCK = re.compile(r"(?<=<!-- table: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)

XEON, EPYC = "xeon-2-cores", "epyc-2-cores"  # a folder of docs/results: one for each machine
DRAFTERS = {
    "sparrow": "Sparrow",
    "no_ivsb": "without IVSB",
    "no_mtp": "without MTP",
    "blind": "blind: the target's states zeroed",
    "prompt_lookup": "prompt lookup",
    "none": "no drafter",
}
WAYS = {
    "transformers generate": "transformers `generate`",
    "transformers prompt lookup": "its prompt lookup",
    "autoregressive": "our one-row loop",
}
METHODS = {
    "sparrow": "Sparrow",
    "text_only": "text only (HiViS)",
    "msd": "MSD",
    "vispec": "ViSpec",
    "specvlm": "SpecVLM",
    "prompt_lookup": "prompt lookup",
}


def with_tables(text: str, results: Path) -> str:
    """The text with every table made anew from the files under `results`. Raises ConfigError for an unknown table."""

    def block(match: re.Match[str]) -> str:
        name, rest = match.groups()
        if name not in TABLES:
            raise ConfigError(f"there is no table {name}; there are {', '.join(TABLES)}")
        head, *body = TABLES[name](results)
        return f"{name}{rest}{markdown_table(head, body)}\n"

    return _BLOCK.sub(block, text)


def acceptance(results: Path, draft: str) -> Table:
    """Greedy tau of drafters in one shape, by visual tokens."""
    rows = [row for row in _greedy(_read(results / EPYC / "acceptance.json")) if row["draft"] == draft]
    rows.sort(key=lambda row: list(DRAFTERS).index(row["drafter"]))
    return _crossed(draft, {(DRAFTERS[row["drafter"]], int(row["bucket"])): _tau(row) for row in rows})


def speed(results: Path) -> Table:
    """Greedy decoding in float32, by visual tokens and way."""
    head = [
        "visual tokens", "method", "tau", "round cost", "tokens/s", "decode speedup", "over `generate`", "end to end",
        "its bound",
    ]  # fmt: skip
    return [head] + [
        [
            f"{row['visual_tokens']:,}",
            WAYS.get(row["method"], row["method"]),
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
    """Time of a pass by its rows and context, and how many one-row steps that is."""
    found = _read(results / EPYC / "speed/results.json")["passes"]
    return _crossed("rows of a pass", {(str(row["rows"]), row["context"]): _pass(row) for row in found}, " slots")


def bfloat16(results: Path) -> Table:
    """Greedy decoding in bfloat16: the loop and the governor."""
    folders = ("speed_bfloat16", "speed_bfloat16_25k")
    rows = [row for name in folders for row in _greedy(_read(results / XEON / name / "results.json")["rows"])]
    of = {(row["method"], row["visual_tokens"]): row for row in rows}
    head = [
        "visual tokens", "one-row loop", "over `generate`", "governor", "decode speedup", "over `generate`",
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
        for length in sorted({length for _, length in of})
        for loop, governor in [(of["autoregressive", length], of["governor", length])]
    ]


def method_taus(results: Path, temperature: float) -> Table:
    """Tau of the paper's comparison, by visual tokens."""
    return _by_method(f"tau, T={temperature:g}", _compared(results, temperature), _tau)


def method_speedups(results: Path, temperature: float) -> Table:
    """Decode speedup of the paper's comparison with its rank, by visual tokens."""
    rows = _compared(results, temperature)
    by_length: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        by_length[row["visual_tokens"]].append(row["decode_speedup"])

    def ranked(row: Row) -> str:
        rank = 1 + sum(other > row["decode_speedup"] for other in by_length[row["visual_tokens"]])
        return f"{_interval(row, 'decode_speedup')} #{rank}"

    return _by_method(f"decode speedup, T={temperature:g}", rows, ranked)


def speedups_after_prefill(results: Path) -> Table:
    """Greedy decode speedup of the paper's comparison if the drafter's own prefill cost nothing, by visual tokens."""
    return _by_method(
        "drafter's prefill left out, T=0",
        _compared(results, 0.0),
        lambda row: _number(row["speedup_after_drafter_prefill"]),
    )


def ablation(results: Path) -> Table:
    """Greedy tau of each ablation over Sparrow's on the same windows, by visual tokens."""
    rows = _read(results / EPYC / "paper_tables.json")["ablation"]
    return _crossed(
        "tau over Sparrow's", {(row["method"], row["visual_tokens"]): _interval(row, "tau_ratio") for row in rows}
    )


def layers(results: Path) -> Table:
    """The layer study."""
    found = _read(results / EPYC / "paper_tables.json")["layers"]
    return [["without visual tokens from layer", "facts right", "cosine to the input"]] + [
        [str(row["layer"]), f"{row['fact_score']:.2f}", _number(row["cosine"])] for row in found
    ]


TABLES: Mapping[str, Callable[[Path], Table]] = {
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


def _greedy(rows: Iterable[Row]) -> list[Any]:
    """Those at temperature 0."""
    return [row for row in rows if row["temperature"] == 0]


def _compared(results: Path, temperature: float) -> list[Row]:
    rows = _read(results / EPYC / "paper_tables.json")["rows"]
    return sorted(
        (row for row in rows if row["temperature"] == temperature), key=lambda row: list(METHODS).index(row["method"])
    )


def _by_method(corner: str, rows: Iterable[Row], cell: Callable[[Row], str]) -> Table:
    """A cell for each row of the paper's comparison, by visual tokens."""
    return _crossed(corner, {(METHODS[row["method"]], row["visual_tokens"]): cell(row) for row in rows})


def _crossed(corner: str, cells: Mapping[tuple[str, int], str], unit: str = "") -> Table:
    """Names, as they first come, by lengths."""
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
