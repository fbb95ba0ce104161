"""Time decoding on the demo models: `python -m jobs.benchmark --lengths 512,25000 --output out/bench`."""

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from demo.windows import DemoWindows
from pipeline.distill_config import EvaluationConfig
from pipeline.report.machine import describe_machine
from pipeline.report.plots import plot_speed
from sparrow_core.config import EngineConfig, Sampling
from sparrow_core.measure.drafter_cost import drafter_cost
from sparrow_core.measure.floors import measure_rates
from sparrow_core.measure.passes import measure_passes
from sparrow_core.measure.speed import SpeedCheck
from sparrow_core.models.drafter_checkpoint import load_drafter
from sparrow_core.models.loading import load_target

SHAPES = EvaluationConfig().drafts
FIRST_SEED = 80_000
TABLES = {
    "rows": ("visual_tokens", "temperature", "method", "tau", "round_cost", "tokens_per_s", "decode_speedup",
             "speedup_over_generate", "end_to_end_speedup", "end_to_end_bound"),
    "passes": ("context", "rows", "ms", "ar_steps", "floor_ms", "over_floor"),
    "throughput": ("visual_tokens", "method", "batch", "tokens_per_s"),
    "drafter_cost": ("visual_tokens", "target_cache_bytes", "drafter_cache_bytes", "open_ms", "propose_ms"),
}  # fmt: skip


def main(
    output: Annotated[Path, typer.Option(help="Folder for results.json and speed.svg.")],
    lengths: Annotated[str, typer.Option(help="Visual tokens, comma separated: 64, 512, 1500, ... 25000.")] = "64,512",
    windows: Annotated[int, typer.Option(help="Held-out windows of each length.")] = 4,
    repeats: Annotated[int, typer.Option(help="Counted runs of every arm; medians are reported.")] = 3,
    batch: Annotated[str, typer.Option(help="Requests side by side, comma separated, for throughput.")] = "1",
    temperatures: Annotated[str, typer.Option(help="Comma separated; above 0, both rules are measured.")] = "0",
    max_new_tokens: Annotated[int, typer.Option(help="Limit of a caption.")] = 256,
    target: Annotated[str, typer.Option(help="A demo checkpoint folder.")] = "demo/weights/target",
    draft: Annotated[str, typer.Option(help="Its drafter.")] = "demo/weights/drafter",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
) -> None:
    """Decode the same windows by transformers' generate, by our one-row loop, and with drafts; write and print figures.

    Results are rewritten after every length, so that an interrupted run keeps what it has measured.
    """
    torch.set_num_threads(threads)
    model = load_target(target, dtype=dtype)
    drafter = load_drafter(draft, model)
    batches, contexts = _numbers(batch), _numbers(lengths)
    arena = max(32_768, max(contexts) * max(batches) * 5 // 4 + 1024 * max(batches))
    check = SpeedCheck(target, model, drafter, SHAPES, EngineConfig(max_sequences=max(batches), arena_tokens=arena))
    rates = measure_rates(model.info.device, model.info.dtype)
    results: dict[str, Any] = {
        "machine": describe_machine(model.info.device),
        "rates": asdict(rates),
        "dtype": str(model.info.dtype).removeprefix("torch."),
        "passes": [asdict(row) for row in measure_passes(model, contexts, rates)],
        "rows": [],
        "throughput": [],
        "drafter_cost": [],
    }
    for length in contexts:
        source = DemoWindows("heldout", (length,), FIRST_SEED)
        requests = [source.request(index, max_new_tokens=max_new_tokens) for index in range(windows)]
        results["drafter_cost"].append(asdict(drafter_cost(drafter, requests[0], SHAPES["tree of 25"])))
        for sampling in _samplings(temperatures):
            rows = check.measure(length, requests, repeats, sampling)
            results["rows"] += [asdict(row) | {"rule": sampling.rule} for row in rows]
        for size in batches:
            results["throughput"] += [asdict(row) for row in check.throughput(length, requests, size)]
        results["peak_bytes"] = _peak_bytes(model.info.device)
        store(output, results)
    check.close()
    show(Console(), results)


def _numbers(text: str) -> list[int]:
    return [int(item) for item in text.split(",")]


def _samplings(temperatures: str) -> list[Sampling]:
    """Greedy once; each other temperature by both rules."""
    samplings = []
    for temperature in [float(item) for item in temperatures.split(",")]:
        samplings.append(Sampling(temperature))
        if temperature > 0:
            samplings.append(Sampling(temperature, rule="rejection"))
    return samplings


def _peak_bytes(device: torch.device) -> int:
    """Most memory held so far: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def store(output: Path, results: dict[str, Any]) -> None:
    """Write results.json and its plot."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot_speed(results, output / "speed.svg")


def show(console: Console, results: dict[str, Any]) -> None:
    """Print the tables."""
    for name, columns in TABLES.items():
        table = Table(*columns, title=name)
        for row in results[name]:
            table.add_row(*(_cell(row[column]) for column in columns))
        console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
