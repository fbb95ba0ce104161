"""Time decoding on the demo models: `python -m jobs.benchmark --lengths 512,25000 --out out/bench`."""

import json
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from demo.tokenizer import load_tokenizer
from demo.windows import DemoWindows
from jobs.demo_models import DEMO
from jobs.errors import exit_on_error
from jobs.option_values import demo_windows, numbers
from jobs.options import DemoDraftOption, DemoTargetOption, ThreadsOption
from pipeline.common.machine import describe_machine
from pipeline.comparison.plots import plot_speed
from pipeline.drafters.config import EvaluationConfig
from sparrow_core.config import Sampling
from sparrow_core.drafters.artefact import load_drafter
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.measure.benchmark import (
    BenchmarkConfig,
    BenchmarkModels,
    Tables,
    measure_decoding,
    measure_single_costs,
    measure_synthetic_decoding,
)
from sparrow_core.measure.floors import measure_rates
from sparrow_core.targets.loading import load_target, resolve_device, resolve_dtype
from sparrow_core.targets.reference import load_reference
from sparrow_core.targets.synthetic import GEOMETRIES, random_target
from sparrow_core.threads import on_temporary_thread
from sparrow_core.types import Request

FIRST_SEED = 80_000
COLUMNS = {
    "rows": ("visual_tokens", "dtype", "temperature", "method", "tau", "round_cost", "tokens_per_s", "decode_speedup",
             "speedup_over_generate", "end_to_end_speedup", "end_to_end_bound"),
    "passes": ("context", "dtype", "rows", "ms", "ar_steps", "floor_ms", "over_floor"),
    "drafts": ("draft", "dtype", "ms"),
    "throughput": ("visual_tokens", "dtype", "method", "batch", "tokens_per_s"),
    "joining": ("running", "joining", "dtype", "median_before_ms", "p95_during_ms", "p95_over_median_before",
                "joining_over_alone"),
    "drafter_cost": ("visual_tokens", "dtype", "target_cache_bytes", "drafter_cache_bytes", "open_ms", "propose_ms"),
}  # fmt: skip


def main(
    out: Annotated[Path, typer.Option("--out", "--output", help="Folder for results.json and speed.svg.")],
    lengths: Annotated[
        str, typer.Option(help="Visual tokens, comma separated, with a number of windows or without: 64,25000:1.")
    ] = "64,512",
    windows: Annotated[int, typer.Option(help="Held-out windows of a length without a number.")] = 4,
    repeats: Annotated[int, typer.Option(help="Counted runs of every mode; medians are reported.")] = 3,
    batch: Annotated[str, typer.Option(help="Requests side by side, comma separated, for throughput.")] = "1",
    temperatures: Annotated[str, typer.Option(help="Comma separated; above 0, both rules are measured.")] = "0",
    join: Annotated[str, typer.Option(help="Lengths of a window that runs and of one that joins: 6000,25000.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Limit of a caption.")] = 256,
    target: DemoTargetOption = DEMO["target"],
    draft: DemoDraftOption = DEMO["draft"],
    synthetic: Annotated[
        str, typer.Option(help="Time random weights this large: 7b. The acceptance is synthetic.")
    ] = "",
    acceptance: Annotated[
        float, typer.Option(min=0, max=0.99, help="With --synthetic: how often a drafted token is right.")
    ] = 0.8,
    dtype: Annotated[str, typer.Option(help="Comma separated: auto, float32, bfloat16.")] = "auto",
    threads: ThreadsOption = 2,
) -> None:
    """Decode windows by transformers' generate, by our autoregressive loop and with drafts; write and print figures.

    Results are rewritten with every table's part, so that an interrupted run keeps what it has measured.
    """
    with exit_on_error():
        torch.set_num_threads(threads)
        if synthetic and synthetic not in GEOMETRIES:
            raise typer.BadParameter(f"{synthetic!r} is not one of {', '.join(GEOMETRIES)}", param_hint="--synthetic")
        if synthetic and (batch, temperatures, join) != ("1", "0", ""):
            raise typer.BadParameter(
                "greedy captions one at a time are all that is measured: leave out --batch, --temperatures and --join",
                param_hint="--synthetic",
            )
        shapes = EvaluationConfig().drafts
        counts = demo_windows(lengths, "--lengths", windows)
        benchmark = BenchmarkConfig(
            tuple(counts), shapes, repeats, numbers(batch), _samplings(temperatures), _pair(join)
        )
        results: dict[str, Any] = {"synthetic": synthetic or None, "rates": {}, **{name: [] for name in COLUMNS}}
        run = partial(measure_synthetic_decoding, acceptance=acceptance) if synthetic else measure_decoding
        for name in dtype.split(","):
            load = partial(_random, synthetic, target, name) if synthetic else partial(_loaded, target, draft, name)
            models = on_temporary_thread(load)
            info = models.target.info
            add = partial(_add, results, info.dtype_name, out)
            results["machine"] = describe_machine(info.device)
            rates = on_temporary_thread(partial(measure_rates, info.device, info.dtype))
            results["rates"][info.dtype_name] = asdict(rates)
            costs = on_temporary_thread(partial(measure_single_costs, models, benchmark, rates))
            add(costs)
            requests = partial(_requests, counts, max_new_tokens)
            for part in run(models, benchmark, requests, costs["passes"], partial(_peak_bytes, info.device)):
                add(part)
        show(Console(), results)


def _requests(counts: Mapping[int, int], max_new_tokens: int, length: int) -> list[Request]:
    """The windows of one length; one, if it is only there to join."""
    source = DemoWindows("heldout", (length,), FIRST_SEED)
    return [source.request(index, max_new_tokens=max_new_tokens) for index in range(counts.get(length, 1))]


def _loaded(source: str, draft: str, dtype: str) -> BenchmarkModels:
    """A checkpoint and its drafter, and the checkpoint once more as the library loads it."""
    target = load_target(source, dtype=dtype)
    library = load_reference(source, device=target.info.device, dtype=target.info.dtype)
    return BenchmarkModels(target, load_drafter(draft, target), library)


def _random(size: str, tokenizer: str, dtype: str) -> BenchmarkModels:
    """Random weights, which the library shares."""
    device = resolve_device("auto")
    target = random_target(
        GEOMETRIES[size], load_tokenizer(Path(tokenizer)), device=device, dtype=resolve_dtype(dtype, device)
    )
    return BenchmarkModels(target, SparrowDrafter.untrained(target), target.model)


def _pair(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    pair = numbers(text)
    if len(pair) != 2:
        raise typer.BadParameter(f"{text!r} is not two lengths such as 6000,25000", param_hint="--join")
    return pair[0], pair[1]


def _samplings(temperatures: str) -> list[Sampling]:
    """Greedy once; each other temperature by both rules."""
    samplings = []
    try:
        values = [float(item) for item in temperatures.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{temperatures!r} is not numbers such as 0,1", param_hint="--temperatures") from error
    for temperature in values:
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


def _add(results: dict[str, Any], dtype: str, out: Path, part: Tables) -> None:
    """Take in a part of the tables, measured in one dtype; write results.json and its plot."""
    for name, rows in part.items():
        results[name] += [row | {"dtype": dtype} for row in rows]
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    if results["rows"]:
        plot_speed(results, out / "speed.svg")


def show(console: Console, results: dict[str, Any]) -> None:
    """Print the tables."""
    for name, columns in COLUMNS.items():
        if not results[name]:
            continue
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
