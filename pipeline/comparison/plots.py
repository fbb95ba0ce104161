"""Plots of a benchmark (decode speedup, tau and round cost over visual length) and of the paper's comparison (tau and
speedups by temperature, training curves, the layer study), as SVG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.figure import Figure

matplotlib.rcParams["svg.hashsalt"] = "sparrow"  # the same results give the same file

TITLES = {
    "tau": "tau (tokens per target call)",
    "round_cost": "round cost (in autoregressive steps)",
    "decode_speedup": "decode speedup over our autoregressive loop",
    "end_to_end_speedup": "end-to-end speedup",
    "fact_score": "share of facts right",
    "cosine": "cosine of visual hidden states to their embeddings",
}
SPEED_PANELS = ("decode_speedup", "tau", "round_cost")
METHOD_PANELS = ("tau", "decode_speedup", "end_to_end_speedup")
LAYER_PANELS = ("fact_score", "cosine")
TRAINING_COLUMNS = 4


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
        for panel, name in zip(axes, METHOD_PANELS, strict=True):
            for method in methods:
                xs, ys = _line([row for row in rows if row["method"] == method], name)
                panel.plot(xs, ys, marker="o", markersize=3, label=method)
            panel.set(title=f"{TITLES[name]}, T={temperature:g}")
            _over_visual_length(panel, sorted({row["visual_tokens"] for row in rows}))
    grid[0][0].legend(fontsize="x-small")
    _save(figure, path)


def plot_training(results: Mapping[str, Any], path: Path) -> None:
    """Write the loss curves of a `paper_tables.json` as one SVG: a panel for each drafter, a line for each learning
    rate; the legend gives tau on the validation windows."""
    names = list(dict.fromkeys(row["name"] for row in results["training"]))
    num_rows = -(-len(names) // TRAINING_COLUMNS)
    size = (3.6 * TRAINING_COLUMNS, 2.6 * num_rows)
    figure, grid = pyplot.subplots(num_rows, TRAINING_COLUMNS, figsize=size, layout="constrained", squeeze=False)
    for panel, name in zip(grid.flat, names, strict=False):
        for row in sorted((r for r in results["training"] if r["name"] == name), key=lambda r: r["learning_rate"]):
            steps, losses = [point[0] for point in row["curve"]], [point[1] for point in row["curve"]]
            label = f"{row['learning_rate']:g}: tau {row['tau']:.2f}{', chosen' if row['chosen'] else ''}"
            panel.plot(steps, losses, linewidth=1.6 if row["chosen"] else 0.7, label=label)
        panel.set(title=name, yscale="log")
        panel.legend(fontsize="xx-small")
        panel.grid(alpha=0.3)
    for panel in list(grid.flat)[len(names) :]:
        panel.set_axis_off()
    figure.supxlabel("step", fontsize="small")
    figure.supylabel("loss (nats per learnt position, all passes)", fontsize="small")
    _save(figure, path)


def plot_layers(results: Mapping[str, Any], path: Path) -> None:
    """Write the layer study of a `paper_tables.json` as one SVG."""
    figure, axes = pyplot.subplots(1, len(LAYER_PANELS), figsize=(4.2 * len(LAYER_PANELS), 3.2), layout="constrained")
    for panel, name in zip(axes, LAYER_PANELS, strict=True):
        points = [(row["layer"], row[name]) for row in results["layers"] if row[name] is not None]
        panel.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3)
        panel.set(title=TITLES[name], xlabel="visual tokens are removed from this layer on")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    _save(figure, path)


def plot_speed(results: Mapping[str, Any], path: Path) -> None:
    """Write the greedy rows of a benchmark's `results.json` as one SVG: a panel for each of `SPEED_PANELS`."""
    rows = [row for row in results["rows"] if row["temperature"] == 0]
    lines = list(dict.fromkeys((row["method"], row["dtype"]) for row in rows))
    lengths = sorted({row["visual_tokens"] for row in rows})
    figure, axes = pyplot.subplots(1, len(SPEED_PANELS), figsize=(4.2 * len(SPEED_PANELS), 3.4), layout="constrained")
    for panel, name in zip(axes, SPEED_PANELS, strict=True):
        for method, dtype in lines:
            xs, ys = _line([row for row in rows if (row["method"], row["dtype"]) == (method, dtype)], name)
            panel.plot(xs, ys, marker="o", markersize=3, label=f"{method}, {dtype}")
        panel.set(title=TITLES[name])
        _over_visual_length(panel, lengths)
    axes[0].legend(fontsize="x-small")
    machine = results["machine"]
    figure.suptitle(f"{machine['processor']}, {machine['device']}", fontsize="small")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
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
