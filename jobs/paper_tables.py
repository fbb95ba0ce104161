"""Compare Sparrow with other methods: `python -m jobs.paper_tables --config jobs/configs/paper_tables.yaml`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from demo.windows import DemoWindows
from demo.world import mean_scores, score
from jobs.demo_distillation import DistillJobConfig, demo_training_windows
from jobs.errors import exit_on_error
from jobs.options import RequiredConfigOption, SettingsOption
from jobs.submitted import refuse_relative
from pipeline.common.checkpoints import worker_draft, worker_path
from pipeline.common.settings import build_config, read_settings
from pipeline.comparison.config import PaperConfig
from pipeline.comparison.plan import ScoredWindows
from pipeline.comparison.run import ComparisonWindows, compare
from pipeline.comparison.training import Variant
from pipeline.comparison.trials import Validation
from sparrow_core.measure.method_rows import MethodRow
from sparrow_core.types import Request

VALIDATION_SEED, MEASURED_SEED = 40_000, 90_000


def main(
    config: RequiredConfigOption,
    output: Annotated[
        Path, typer.Option(help="Folder for hidden states, drafters, the journal and the results.")
    ] = Path("out/paper_tables"),
    settings: SettingsOption = None,
) -> None:
    """Train Sparrow, its rivals and its ablations on the same windows, then measure all on the same held-out windows.

    Run again, the command continues where it stopped. With jobs/configs/paper_tables.yaml on two cores, each of eight
    captures takes 20 minutes (50 with longer windows), each of some fifty trainings 5 to 25 minutes (two at a time),
    and measuring each window of 25,000 visual tokens 2 minutes.

    Exit codes: 0 done; 2 wrong usage or settings.
    """
    console = Console()
    with exit_on_error():
        refuse_relative({"--output": output})
        checked = build_config(PaperConfig, read_settings(config, settings or []))
        windows = ComparisonWindows(
            partial(variant, checked.base),
            validation(checked),
            ScoredWindows(partial(measured_request, checked.measure.max_new_tokens), fact_score),
        )
        show(console, compare(checked, windows, output.absolute(), partial(console.print, highlight=False)))


def variant(base: Mapping[str, Any], name: str, changes: Mapping[str, Any]) -> Variant:
    """A variant on windows of the demo world: the base settings with one method's or ablation's changes."""
    merged: Any = OmegaConf.to_container(OmegaConf.merge(dict(base), dict(changes)))
    config = build_config(DistillJobConfig, merged)
    config = replace(config, target=worker_path(config.target), draft=worker_draft(config.draft))
    return Variant(name, config, demo_training_windows(config))


def validation(config: PaperConfig) -> Validation:
    """Windows of the validation split that choose learning rates."""
    rates, measure = config.validation, config.measure
    windows = [
        partial(DemoWindows("validation", (length,), VALIDATION_SEED).request, index, measure.max_new_tokens)
        for length in rates.lengths
        for index in range(rates.windows_per_length)
    ]
    settings = asdict(rates) | {"draft": asdict(measure.draft), "max_new_tokens": measure.max_new_tokens}
    return Validation(windows, measure.draft, json.loads(json.dumps(settings)))


def measured_request(max_new_tokens: int, length: int, number: int) -> Request:
    """Held-out window `number` of a visual length."""
    return DemoWindows("heldout", (length,), MEASURED_SEED).request(number, max_new_tokens)


def fact_score(length: int, number: int, caption: str) -> float:
    """The share of the window's main facts that the caption has right."""
    return mean_scores([score(caption, DemoWindows("heldout", (length,), MEASURED_SEED).scene(number))])["mean"]


def show(console: Console, rows: Sequence[MethodRow]) -> None:
    """Print the rows as a table."""
    table = Table("T", "visual tokens", "method", "windows", "tau", "95 %", "over Sparrow's", "speedup", "unequal")
    for row in sorted(rows, key=lambda row: (row.temperature, row.visual_tokens)):
        table.add_row(
            f"{row.temperature:g}", str(row.visual_tokens), row.method, str(row.windows), f"{row.tau:.2f}",
            f"{row.tau_low:.2f} to {row.tau_high:.2f}", f"{row.tau_ratio:.2f}" if row.tau_ratio else "",
            f"{row.decode_speedup:.2f}", str(row.unequal),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
