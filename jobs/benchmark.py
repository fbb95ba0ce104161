"""Time decoding on the demo models: `python -m jobs.benchmark --lengths 512,25000 --out out/bench`."""

import json
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
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
        str, typer.Option(help="Visual tokens, comma separated, each with an optional number of windows: 64,25000:1.")
    ] = "64,512",
    windows: Annotated[int, typer.Option(help="Held-out windows of each length that has no number of its own.")] = 4,
    repeats: Annotated[int, typer.Option(help="Timed runs of every decode mode; medians are reported.")] = 3,
    batch: Annotated[str, typer.Option(help="Numbers of concurrent requests for throughput, comma separated.")] = "1",
    temperatures: Annotated[
        str, typer.Option(help="Comma separated. Above 0, both acceptance rules are measured.")
    ] = "0",
    join: Annotated[
        str, typer.Option(help="Visual tokens of a running window and of one that joins it: 6000,25000.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of a caption.")] = 256,
    target: DemoTargetOption = DEMO["target"],
    draft: DemoDraftOption = DEMO["draft"],
    synthetic: Annotated[
        str, typer.Option(help="Time random weights of this size: 7b. The acceptance is synthetic.")
    ] = "",
    acceptance: Annotated[
        float, typer.Option(min=0, max=0.99, help="With --synthetic: probability that a drafted token is accepted.")
    ] = 0.8,
    dtype: Annotated[str, typer.Option(help="Comma separated: auto, float32, bfloat16.")] = "auto",
    threads: ThreadsOption = 2,
) -> None:
    """Time decoding by transformers' generate, by our autoregressive loop and with drafts; write and print the results.

    results.json is rewritten after every measurement, so that an interrupted run keeps what it has measured.
    """
    with exit_on_error():
        torch.set_num_threads(threads)
        if synthetic:
            _check_synthetic(synthetic, only_greedy_singles=(batch, temperatures, join) == ("1", "0", ""))
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
            _measure(models, benchmark, partial(_requests, counts, max_new_tokens), run, results, out)
        show(Console(), results)


def _check_synthetic(size: str, only_greedy_singles: bool) -> None:
    """Raise BadParameter for an unknown --synthetic, and for options that it does not support."""
    if size not in GEOMETRIES:
        raise typer.BadParameter(f"{size!r} is not one of {', '.join(GEOMETRIES)}", param_hint="--synthetic")
    if not only_greedy_singles:
        raise typer.BadParameter(
            "only greedy captions, one at a time, are measured: leave out --batch, --temperatures and --join",
            param_hint="--synthetic",
        )


def _measure(
    models: BenchmarkModels,
    benchmark: BenchmarkConfig,
    requests: Callable[[int], list[Request]],
    run: Callable[..., Iterator[Tables]],
    results: dict[str, Any],
    out: Path,
) -> None:
    """Measure the models, which have one dtype, and add each part of the results as soon as it is there."""
    info = models.target.info
    add = partial(_add, results, info.dtype_name, out)
    results["machine"] = describe_machine(info.device)
    rates = on_temporary_thread(partial(measure_rates, info.device, info.dtype))
    results["rates"][info.dtype_name] = asdict(rates)
    costs = on_temporary_thread(partial(measure_single_costs, models, benchmark, rates))
    add(costs)
    for part in run(models, benchmark, requests, costs["passes"], partial(_peak_bytes, info.device)):
        add(part)


def _requests(counts: Mapping[int, int], max_new_tokens: int, length: int) -> list[Request]:
    """The windows of one length; a single one for a length that only --join names."""
    source = DemoWindows("heldout", (length,), FIRST_SEED)
    return [source.request(index, max_new_tokens=max_new_tokens) for index in range(counts.get(length, 1))]


def _loaded(source: str, draft: str, dtype: str) -> BenchmarkModels:
    """A target and its drafter, and the same checkpoint as transformers loads it."""
    target = load_target(source, dtype=dtype)
    library = load_reference(source, device=target.info.device, dtype=target.info.dtype)
    return BenchmarkModels(target, load_drafter(draft, target), library)


def _random(size: str, tokenizer: str, dtype: str) -> BenchmarkModels:
    """A target with random weights, which transformers' model shares, and an untrained drafter."""
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
    """Greedy sampling once, and every other temperature with both acceptance rules."""
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
    """Peak memory so far: of the GPU, or on a CPU of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _add(results: dict[str, Any], dtype: str, out: Path, part: Tables) -> None:
    """Add rows measured in one dtype to the results; write results.json and its plot."""
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
