"""Plots of a benchmark: decode speedup, tau and round cost over visual length, one line for each method and dtype."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

PANELS = {
    "decode_speedup": "decode speedup over our one-row loop",
    "tau": "tau (tokens per target call)",
    "round_cost": "round cost (in steps of our loop)",
}


METHOD_PANELS = {
    "tau": "tau (tokens per target call)",
    "decode_speedup": "decode speedup over our one-row loop",
}


def plot_methods(results: Mapping[str, Any], path: Path) -> None:
    """Write the rows of a `paper_tables.json` as one SVG: a row of panels for each temperature."""
    temperatures = sorted({row["temperature"] for row in results["rows"]})
    methods = list(dict.fromkeys(row["method"] for row in results["rows"]))
    size = (4.2 * len(METHOD_PANELS), 3.2 * len(temperatures))
    figure, grid = pyplot.subplots(
        len(temperatures), len(METHOD_PANELS), figsize=size, layout="constrained", squeeze=False
    )
    for axes, temperature in zip(grid, temperatures, strict=True):
        rows = [row for row in results["rows"] if row["temperature"] == temperature]
        for panel, (name, title) in zip(axes, METHOD_PANELS.items(), strict=True):
            for method in methods:
                xs, ys = _line([row for row in rows if row["method"] == method], name)
                panel.plot(xs, ys, marker="o", markersize=3, label=method)
            panel.set(title=f"{title}, T={temperature:g}")
            _over_visual_length(panel, sorted({row["visual_tokens"] for row in rows}))
    grid[0][0].legend(fontsize="x-small")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def plot_speed(results: Mapping[str, Any], path: Path) -> None:
    """Write the greedy rows of a `results.json` as one SVG with a panel for each figure of `PANELS`."""
    rows = [row for row in results["rows"] if row["temperature"] == 0]
    lines = list(dict.fromkeys((row["method"], row["dtype"]) for row in rows))
    lengths = sorted({row["visual_tokens"] for row in rows})
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(4.2 * len(PANELS), 3.4), layout="constrained")
    for panel, (name, title) in zip(axes, PANELS.items(), strict=True):
        for method, dtype in lines:
            xs, ys = _line([row for row in rows if (row["method"], row["dtype"]) == (method, dtype)], name)
            panel.plot(xs, ys, marker="o", markersize=3, label=f"{method}, {dtype}")
        panel.set(title=title)
        _over_visual_length(panel, lengths)
    axes[0].legend(fontsize="x-small")
    machine = results["machine"]
    figure.suptitle(f"{machine['processor']}, {machine['device']}", fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _over_visual_length(panel: Any, lengths: Sequence[int]) -> None:
    panel.set(xlabel="visual tokens", xscale="log")
    panel.set_xticks(lengths, [f"{length:,}" for length in lengths], minor=False)
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)


def _line(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = sorted((row["visual_tokens"], row[name]) for row in rows if row[name] is not None)
    return [x for x, _ in points], [y for _, y in points]
