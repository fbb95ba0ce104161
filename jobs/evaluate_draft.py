"""Measure drafters on held-out windows: `python jobs/evaluate_draft.py --config FILE --draft DIR --draft none`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.demo_distillation import DistillJobConfig, demo_heldout
from jobs.errors import exit_on_error
from jobs.options import HeldOutOption, RequiredConfigOption, SettingsOption
from jobs.submitted import refuse_relative
from pipeline.common.acceptance_rows import store_acceptance
from pipeline.common.checkpoints import worker_path
from pipeline.common.cluster import connected
from pipeline.common.registry import drafter_in_use
from pipeline.common.settings import build_config, read_settings
from pipeline.drafters.evaluation import evaluate_drafters
from pipeline.drafters.heldout import heldout_of_run, measured_windows
from pipeline.drafters.report import show_acceptance


def main(
    config: RequiredConfigOption,
    draft: Annotated[
        list[str], typer.Option(help="Drafter: folder, registry, hub id, none or prompt_lookup; may be repeated.")
    ],
    heldout: HeldOutOption = None,
    output: Annotated[Path, typer.Option(help="JSON file for the rows.")] = Path("out/acceptance.json"),
    settings: SettingsOption = None,
) -> None:
    """Decode held-out windows with each drafter; report tau by visual length with its bootstrap 95 % interval.

    Exit codes: 0 done; 2 wrong usage or settings.
    """
    with exit_on_error():
        refuse_relative({"--heldout": heldout, "--output": output})
        checked = build_config(DistillJobConfig, read_settings(config, settings or []))
        checked = replace(checked, target=worker_path(checked.target))
        stored = heldout_of_run(checked, heldout) if heldout else None
        windows = demo_heldout(checked) if stored is None else measured_windows(checked, stored)
        with connected():
            rows = evaluate_drafters(
                checked, checked.evaluation, [worker_path(drafter_in_use(name)) for name in draft], windows
            )
    store_acceptance(output, rows)
    show_acceptance(Console(), rows)


if __name__ == "__main__":
    typer.run(main)
