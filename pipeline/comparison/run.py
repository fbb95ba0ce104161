"""Runs the paper's comparison from settings to results: train, study layers, measure, store. Resumable.

OUTPUT/paper_tables.json, paper_tables*.svg    results and plots
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.common.cluster import connected, errors_of_worker_start
from pipeline.common.machine import describe_machine
from pipeline.comparison.config import PaperConfig
from pipeline.comparison.layer_study import study_layers
from pipeline.comparison.measurement import measure
from pipeline.comparison.plan import SPARROW, UNTRAINED, ComparisonPlan, ScoredWindows
from pipeline.comparison.plots import plot_layers, plot_methods, plot_training
from pipeline.comparison.trained_drafters import TrainedDrafter, keep_drafter
from pipeline.comparison.training import Variant, capture_all, train_variants, tune_variants
from pipeline.comparison.trials import TrialResult, Validation, train_trials
from sparrow_core.measure.layers import LayerFinding
from sparrow_core.measure.method_rows import MethodRow, method_rows
from sparrow_core.targets.loading import resolve_device

RESULT = "paper_tables.json"


@dataclass(frozen=True)
class ComparisonWindows:
    """Windows of a comparison.

    `variant` builds a variant with its training windows from a name and its changes to the common settings.
    `validation` windows choose learning rates. `measured` windows are held out and scored.
    """

    variant: Callable[[str, Mapping[str, Any]], Variant]
    validation: Validation
    measured: ScoredWindows


def compare(
    config: PaperConfig, windows: ComparisonWindows, output: Path, log: Callable[[str], None]
) -> list[MethodRow]:
    """Do the work that is missing in `output` and write the results there -> their rows. `log` gets a line per step."""
    base = windows.variant("base", {}).config
    machine = describe_machine(resolve_device(base.device))
    with connected(), errors_of_worker_start():
        trained = train_all(config, windows, output, log)
        methods = {name: trained[name] for name in config.methods}
        ablations = {name: trained[name] for name in (*config.tuned, *config.ablations)}
        findings = study_layers(
            base, config.measure, windows.measured, output, lambda of: log(f"layer study: window {of[-1].window}")
        )
        plan = ComparisonPlan(base, config.measure, methods, ablations)
        where = f"{machine['processor']}, {machine['device']}"
        runs = measure(plan, windows.measured, output, where, lambda window: log(f"measured: window {window}"))
    rows = method_rows(runs, SPARROW)
    results = {
        "machine": {**machine, "engines": config.measure.workers, "threads": base.workers.threads},
        "draft": asdict(config.measure.draft),
        "training": [row for drafter in (methods | ablations).values() for row in drafter.trainings],
        "layers": layer_rows(findings),
    }
    plot_training(results, output / "paper_tables_training.svg")
    plot_layers(results, output / "paper_tables_layers.svg")
    store_results(output, results, {*methods, *UNTRAINED}, rows)
    return rows


def train_all(
    config: PaperConfig, windows: ComparisonWindows, output: Path, log: Callable[[str], None]
) -> dict[str, TrainedDrafter]:
    """Train the drafters that are missing -> the best drafter of each method and ablation, by name. Ray must be
    connected."""

    def log_trial(result: TrialResult) -> None:
        log(f"{result.name}: tau {result.tau:.2f} on validation windows")

    tuned = [windows.variant(name, changes) for name, changes in {**config.methods, **config.tuned}.items()]
    ablations = [windows.variant(name, changes) for name, changes in config.ablations.items()]
    train = partial(train_trials, output=output / "trials", validation=windows.validation, on_trial=log_trial)
    keep = partial(keep_drafter, output / "drafters")
    folders = capture_all([*tuned, *ablations], output)
    results = tune_variants(tuned, config.learning_rates, config.most_rates, folders, train)
    trained = {name: keep(name, by_rate) for name, by_rate in results.items()}
    of_ablations = train_variants(ablations, [trained[SPARROW].learning_rate], folders, train)
    return trained | {name: keep(name, by_rate) for name, by_rate in of_ablations.items()}


def store_results(output: Path, results: Mapping[str, Any], methods: set[str], rows: Sequence[MethodRow]) -> None:
    """Write `results` with the rows added, and the plot of the methods. Rows of other names belong to ablations."""
    complete = {
        **results,
        "rows": [asdict(row) for row in rows if row.method in methods],
        "ablation": [asdict(row) for row in rows if row.method not in methods],
    }
    (output / RESULT).write_text(json.dumps(complete, indent=1) + "\n")
    if complete["rows"]:
        plot_methods(complete, output / "paper_tables.svg")


def layer_rows(findings: Sequence[LayerFinding]) -> list[dict[str, Any]]:
    """Means over windows, one row per layer. A row's visual tokens are removed from its `layer` on."""
    rows = []
    for layer in sorted({finding.layer for finding in findings}):
        of_layer = [finding for finding in findings if finding.layer == layer]
        cosines = [finding.cosine for finding in of_layer if finding.cosine is not None]
        score = fmean(finding.fact_score for finding in of_layer)
        cosine = fmean(cosines) if cosines else None
        rows.append({"layer": layer, "windows": len(of_layer), "fact_score": score, "cosine": cosine})
    return rows
