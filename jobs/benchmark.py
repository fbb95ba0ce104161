"""Time decoding on the demo models: `python -m jobs.benchmark --lengths 64,512 --output out/bench`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from demo.windows import DemoWindows
from pipeline.distill_config import EvaluationConfig
from pipeline.report.machine import describe_machine
from sparrow_core.measure.drafter_cost import DrafterCost, drafter_cost
from sparrow_core.measure.speed import SpeedCheck, SpeedRow
from sparrow_core.models.drafter_checkpoint import load_drafter
from sparrow_core.models.loading import load_target

SHAPES = EvaluationConfig().drafts
FIRST_SEED = 80_000


def main(
    output: Annotated[Path, typer.Option(help="Folder for results.json.")],
    lengths: Annotated[str, typer.Option(help="Visual tokens, comma separated: 64, 512, 1500, ... 25000.")] = "64,512",
    windows: Annotated[int, typer.Option(help="Held-out windows of each length.")] = 4,
    repeats: Annotated[int, typer.Option(help="Counted runs of every arm; medians are reported.")] = 3,
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
    check = SpeedCheck(target, model, drafter, SHAPES)
    rows: list[SpeedRow] = []
    costs: list[DrafterCost] = []
    for length in [int(item) for item in lengths.split(",")]:
        source = DemoWindows("heldout", (length,), FIRST_SEED)
        requests = [source.request(index, max_new_tokens=max_new_tokens) for index in range(windows)]
        costs.append(drafter_cost(drafter, requests[0], SHAPES["tree of 25"]))
        rows += check.measure(length, requests, repeats)
        store(output, rows, costs, model.info.dtype, model.info.device)
    check.close()
    show(rows, costs)


def store(
    output: Path, rows: list[SpeedRow], costs: list[DrafterCost], dtype: torch.dtype, device: torch.device
) -> None:
    """Write results.json."""
    output.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": describe_machine(device),
        "dtype": str(dtype).removeprefix("torch."),
        "batch": 1,
        "temperature": 0.0,
        "rows": [asdict(row) for row in rows],
        "drafter_cost": [asdict(cost) for cost in costs],
    }
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def show(rows: list[SpeedRow], costs: list[DrafterCost]) -> None:
    """Print both tables."""
    speed = Table("visual tokens", "method", "tau", "decode s", "tokens/s", "x own loop", "x generate", "x end to end")
    for row in rows:
        figures = (row.tau or float("nan"), row.decode_s, row.tokens_per_s, row.decode_speedup)
        ratios = (row.speedup_over_generate, row.end_to_end_speedup)
        speed.add_row(str(row.visual_tokens), row.method, *(f"{figure:.2f}" for figure in (*figures, *ratios)))
    cost = Table("visual tokens", "target cache", "drafter cache", "drafter prefill ms", "proposal ms")
    for item in costs:
        caches = (f"{item.target_cache_bytes:,}", f"{item.drafter_cache_bytes:,}")
        cost.add_row(str(item.visual_tokens), *caches, f"{item.open_ms:.2f}", f"{item.propose_ms:.2f}")
    console = Console()
    console.print(speed, cost)


if __name__ == "__main__":
    typer.run(main)
