"""Make a drafter for a target: `python jobs/distill_draft.py --config jobs/configs/distill_demo.yaml`."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from demo.windows import DemoWindows
from jobs.errors import told_errors
from pipeline.capture_graph import RequestSource
from pipeline.checkpoints import worker_path
from pipeline.cluster import connected
from pipeline.config import build_config, read_settings
from pipeline.distill_config import DistillRunConfig, EvaluationConfig
from pipeline.distill_run import distill
from pipeline.evaluation_run import evaluate_drafters
from pipeline.registry import NotBetterError, Registry, add_measured
from pipeline.report.acceptance import drafter_card, show_acceptance, store_acceptance

HELD_OUT_SEED = 50_000


@dataclass(frozen=True)
class DistillDemoConfig(DistillRunConfig):
    """A distillation run on windows of the demo world, and how the drafter is measured afterwards."""

    windows: DemoWindows = field(default_factory=lambda: DemoWindows("train", (64, 64, 144, 512), 10**9, True))
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def main(
    config: Annotated[Path, typer.Option(help="YAML file of settings.")],
    output: Annotated[Path, typer.Option(help="Folder for states, training runs and the drafter.")] = Path(
        "out/distill"
    ),
    registry: Annotated[
        str | None, typer.Option(help="Put the drafter on record there; bring it into use if it is better.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="One setting, as train.recursions=1.")] = None,
) -> None:
    """Capture states of the target, train a drafter on them, measure it by real decoding, write its folder.

    The same command again continues an interrupted run. Another config in the same output folder starts a run of its
    own and shares the captured states if it can; the drafter folder then holds the latest result.

    Exit codes: 0 done; 2 wrong usage or settings.
    """
    console = Console()
    with told_errors():
        folder = run(build_config(DistillDemoConfig, read_settings(config, settings or [])), output, console)
        if registry:
            put_on_record(folder, registry, console)


def held_out(evaluation: EvaluationConfig) -> dict[int, RequestSource]:
    """Held-out windows of each visual length."""
    return {
        length: partial(
            DemoWindows("heldout", (length,), HELD_OUT_SEED).request, max_new_tokens=evaluation.max_new_tokens
        )
        for length in evaluation.lengths
    }


def run(config: DistillDemoConfig, output: Path, console: Console) -> Path:
    """All stages; prints what they find. Returns the drafter's folder."""
    config = replace(config, target=worker_path(config.target))
    requests = partial(config.windows.request, max_new_tokens=config.capture.max_new_tokens)
    with connected():
        folder = distill(config, requests, asdict(config.windows), output)
        rows = evaluate_drafters(config, config.evaluation, [str(folder)], held_out(config.evaluation))
    store_acceptance(folder / "evaluation.json", rows)
    (folder / "README.md").write_text(drafter_card(config, rows))
    show_acceptance(console, rows)
    console.print(f"drafter in {folder}", highlight=False, soft_wrap=True)
    return folder


def put_on_record(folder: Path, registry: str, console: Console) -> None:
    """Add the drafter to a registry and promote it if it has earned that; prints which."""
    drafters = Registry(registry)
    added = add_measured(drafters, folder)
    try:
        drafters.promote(added.id)
        outcome = f"drafter {added.id} is in use in {registry}"
    except NotBetterError as error:
        outcome = str(error)
    console.print(outcome, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
