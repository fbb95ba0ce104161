"""The paper's comparison on the demo world: `python -m jobs.paper_tables --config jobs/configs/paper_tables.yaml`."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import typer
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from demo.windows import DemoWindows
from demo.world import mean_scores, score
from jobs.distill_draft import DistillJobConfig
from jobs.errors import exit_on_error
from jobs.submitted import refuse_relative
from pipeline.common.checkpoints import worker_draft, worker_path
from pipeline.common.cluster import connected, errors_of_worker_start
from pipeline.common.machine import describe_machine
from pipeline.common.settings import build_config, read_settings
from pipeline.comparison.layer_study import study_layers
from pipeline.comparison.measurement import SPARROW, UNTRAINED, ComparisonPlan, MeasureConfig, ScoredWindows, measure
from pipeline.comparison.plots import plot_layers, plot_methods, plot_training
from pipeline.comparison.trained_drafters import TrainedDrafter, keep_drafter, kept_drafters
from pipeline.comparison.training import Variant, capture_all, train_variants, tune_variants
from pipeline.comparison.trials import TrialResult, Validation, train_trials
from sparrow_core.errors import ConfigError
from sparrow_core.measure.layers import LayerFinding
from sparrow_core.measure.methods import MethodRow, method_rows
from sparrow_core.targets.loading import resolve_device
from sparrow_core.types import Request

VALIDATION_SEED, MEASURED_SEED = 40_000, 90_000
RESULT = "paper_tables.json"


@dataclass(frozen=True)
class RateChoiceConfig:
    """ScoredWindows on which learning rates are chosen."""

    lengths: tuple[int, ...] = (512, 1500)
    windows_per_length: int = 8


@dataclass(frozen=True)
class PaperConfig:
    """Settings of every drafter (`base`, as for jobs/distill_draft.py), what each method and ablation changes of them,
    and what is measured. Methods and `tuned` ablations find their own learning rate, other ablations have Sparrow's."""

    base: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    ablations: dict[str, dict[str, Any]] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = (0.001, 0.002, 0.004)
    most_rates: int = 5  # of a method whose best rate is at the edge of what was tried
    validation: RateChoiceConfig = field(default_factory=RateChoiceConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        trained = [*self.methods, *self.tuned, *self.ablations]
        if twice := sorted(name for name, count in Counter([*trained, *UNTRAINED]).items() if count > 1):
            raise ConfigError(f"methods, tuned and ablations name {', '.join(twice)} more than once: rename one")
        if SPARROW not in self.methods:
            raise ConfigError(f"methods are {', '.join(self.methods)}; all are compared with {SPARROW}: add it")
        if unknown := sorted(set(self.measure.squeezed) - set(trained)):
            raise ConfigError(f"measure.squeezed names {', '.join(unknown)}; there are {', '.join(trained)}")


def main(
    config: Annotated[Path, typer.Option(help="YAML file of settings.")],
    output: Annotated[Path, typer.Option(help="Folder for states, drafters, the journal and the results.")] = Path(
        "out/paper_tables"
    ),
    drafters: Annotated[
        Path | None, typer.Option(help="Trained drafters to take as they are: OUTPUT/drafters of an earlier run.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="One setting, as measure.windows=10.")] = None,
) -> None:
    """Train Sparrow, its rivals and its ablations on the same windows, then measure all on the same held-out ones.

    The same command again goes on where it stopped. On two cores, as configured for the demo world: 20 minutes for each
    of eight ways of capturing (50 with longer windows), 5 to 25 for each of some fifty trainings (two at a time), and 2
    for each window of 25,000 visual tokens.

    Exit codes: 0 done; 2 wrong usage or settings.
    """
    console = Console()
    with exit_on_error():
        refuse_relative({"--output": output})
        checked = build_config(PaperConfig, read_settings(config, settings or []))
        run(checked, output.absolute(), drafters, console)


def run(config: PaperConfig, output: Path, drafters: Path | None, console: Console) -> None:
    """All of it."""
    base = variant(config.base, "base", {}).config
    trained = kept_drafters(drafters) if drafters else {}
    trained |= train(config, output, trained, console)
    main = {name: trained[name] for name in config.methods}
    others = {name: trained[name] for name in (*config.tuned, *config.ablations)}
    machine = describe_machine(resolve_device(base.device))
    head: dict[str, Any] = {
        "machine": {**machine, "engines": config.measure.workers, "threads": base.workers.threads},
        "draft": asdict(config.measure.draft),
        "training": [row for drafter in (main | others).values() for row in drafter.trainings],
    }
    windows = ScoredWindows(partial(measured_request, config.measure.max_new_tokens), fact_score)
    with console.status("measuring") as status:

        def add(window: str) -> None:
            status.update(f"measuring: window {window} done")

        def add_layers(findings: Sequence[LayerFinding]) -> None:
            status.update(f"layer study: window {findings[-1].window} done")

        head["layers"] = layer_rows(study_layers(base, config.measure, windows, output, add_layers))
        plot_training(head, output / "paper_tables_training.svg")
        plot_layers(head, output / "paper_tables_layers.svg")
        with connected(), errors_of_worker_start():
            plan = ComparisonPlan(base, config.measure, main, others)
            where = f"{machine['processor']}, {machine['device']}"
            rows = method_rows(measure(plan, windows, output, where, add), SPARROW)
    store_results(output, head, {*main, *UNTRAINED}, rows)
    show(console, rows)


def train(
    config: PaperConfig, output: Path, trained: Mapping[str, TrainedDrafter], console: Console
) -> dict[str, TrainedDrafter]:
    """Train the drafters that are not among the `trained`, and keep the best of each name."""

    def missing(changes_by_name: Mapping[str, Mapping[str, Any]]) -> list[Variant]:
        return [variant(config.base, name, changes) for name, changes in changes_by_name.items() if name not in trained]

    def tell(result: TrialResult) -> None:
        console.print(f"{result.name}: tau {result.tau:.2f} on validation windows", highlight=False)

    tuned, ablations = missing({**config.methods, **config.tuned}), missing(config.ablations)
    if not tuned and not ablations:
        return {}
    trials = partial(train_trials, output=output / "trials", validation=validation(config), on_trial=tell)
    keep = partial(keep_drafter, output / "drafters")
    with connected():
        folders = capture_all([*tuned, *ablations], output)
        results = tune_variants(tuned, config.learning_rates, config.most_rates, folders, trials)
        found = {name: keep(name, of_rate) for name, of_rate in results.items()}
        rate = {**trained, **found}[SPARROW].learning_rate
        of_ablation = train_variants(ablations, [rate], folders, trials)
    return found | {name: keep(name, of_rate) for name, of_rate in of_ablation.items()}


def store_results(output: Path, head: Mapping[str, Any], methods: set[str], rows: Sequence[MethodRow]) -> None:
    """Write the tables and the methods' plot. What is no method is an ablation."""
    results = {
        **head,
        "rows": [asdict(row) for row in rows if row.method in methods],
        "ablation": [asdict(row) for row in rows if row.method not in methods],
    }
    (output / RESULT).write_text(json.dumps(results, indent=1) + "\n")
    if results["rows"]:
        plot_methods(results, output / "paper_tables.svg")


def layer_rows(findings: Sequence[LayerFinding]) -> list[dict[str, Any]]:
    """Means over windows, by the layer from which on there are no visual tokens."""
    layers = sorted({finding.layer for finding in findings})
    of_layer = {layer: [finding for finding in findings if finding.layer == layer] for layer in layers}
    rows = []
    for layer, found in of_layer.items():
        cosines = [finding.cosine for finding in found if finding.cosine is not None]
        score = fmean(finding.fact_score for finding in found)
        cosine = fmean(cosines) if cosines else None
        rows.append({"layer": layer, "windows": len(found), "fact_score": score, "cosine": cosine})
    return rows


def variant(base: Mapping[str, Any], name: str, changes: Mapping[str, Any]) -> Variant:
    """The base settings with one method's or ablation's changes."""
    merged: Any = OmegaConf.to_container(OmegaConf.merge(dict(base), dict(changes)))
    config = build_config(DistillJobConfig, merged)
    config = replace(config, target=worker_path(config.target), draft=worker_draft(config.draft))
    requests = partial(config.windows.request, max_new_tokens=config.capture.max_new_tokens)
    return Variant(name, config, requests, asdict(config.windows))


def validation(config: PaperConfig) -> Validation:
    """ScoredWindows of the validation split."""
    rates, measure = config.validation, config.measure
    windows = [
        partial(DemoWindows("validation", (length,), VALIDATION_SEED).request, index, measure.max_new_tokens)
        for length in rates.lengths
        for index in range(rates.windows_per_length)
    ]
    settings = asdict(rates) | {"draft": asdict(measure.draft), "max_new_tokens": measure.max_new_tokens}
    return Validation(windows, measure.draft, json.loads(json.dumps(settings)))


def measured_request(max_new_tokens: int, length: int, number: int) -> Request:
    """Held-out window `number` of a length."""
    return DemoWindows("heldout", (length,), MEASURED_SEED).request(number, max_new_tokens)


def fact_score(length: int, number: int, caption: str) -> float:
    """The share of the main facts that a caption of that window has right."""
    return mean_scores([score(caption, DemoWindows("heldout", (length,), MEASURED_SEED).scene(number))])["mean"]


def show(console: Console, rows: Sequence[MethodRow]) -> None:
    """Print the rows."""
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
