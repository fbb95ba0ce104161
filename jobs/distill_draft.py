"""Train a drafter for a target: `python jobs/distill_draft.py --config jobs/configs/distill_demo.yaml`."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout
from rich.console import Console

from jobs.demo_distillation import DistillJobConfig, demo_heldout, demo_training_windows, demo_validation
from jobs.errors import exit_on_error
from jobs.options import HeldOutOption, RequiredConfigOption, SettingsOption
from jobs.submitted import refuse_relative
from pipeline.common.checkpoints import worker_draft, worker_path
from pipeline.common.registry import Registry
from pipeline.common.settings import build_config, read_settings
from pipeline.common.storage import absolute
from pipeline.drafters.heldout import (
    heldout_of_run,
    measured_windows,
    online_window,
    refuse_leakage,
    validation_windows,
    windows_of_run,
)
from pipeline.drafters.origin import TrainingWindows
from pipeline.drafters.report import show_acceptance
from pipeline.drafters.run import DrafterOutcome, DrafterWindows, make_drafter
from sparrow_core.errors import ConfigError


def main(
    config: RequiredConfigOption,
    output: Annotated[Path, typer.Option(help="Folder for hidden states, training runs and the drafter.")] = Path(
        "out/distill"
    ),
    states: Annotated[
        str | None,
        typer.Option(
            help="Train on these hidden states, as captured by jobs/capture_hidden_states.py. Default: demo windows."
        ),
    ] = None,
    online: Annotated[
        str | None,
        typer.Option(help="Train on the windows of this captioning run, captured while training; nothing is stored."),
    ] = None,
    heldout: HeldOutOption = None,
    registry: Annotated[
        str | None, typer.Option(help="Add the drafter to this registry; promote it if it is better.")
    ] = None,
    settings: SettingsOption = None,
) -> None:
    """Capture hidden states of the target, train a drafter on them, measure it by real decoding, write its folder.

    Run again, the command continues an interrupted run; without new captions to train on it does nothing. Another
    config in the same output folder starts a run of its own, which shares the captured hidden states if it can. The
    drafter folder holds the latest result. While one run holds the output folder, a second one exits at once.

    Exit codes: 0 done; 2 wrong usage or settings.
    """
    console = Console()
    with exit_on_error():
        refuse_relative({"--output": output, "--online": online, "--heldout": heldout, "--registry": registry})
        given = ({"states": states} if states else {}) | ({"online": True} if online else {})
        checked = build_config(DistillJobConfig, read_settings(config, settings or []) | given)
        refuse_relative({"--states": checked.states, "trigger.watch": checked.trigger.watch})
        if checked.trigger.watch and not registry:
            raise ConfigError("trigger.watch compares with the drafter in use: name a --registry")
        output.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(output / "lease", timeout=0):
                windows = chosen_windows(checked, online, heldout)
                resolved = replace(checked, target=worker_path(checked.target), draft=worker_draft(checked.draft))
                drafters, log = Registry(registry) if registry else None, partial(console.print, highlight=False)
                show(console, make_drafter(resolved, windows, drafters, output, log))
        except Timeout:
            console.print(f"another run holds {output / 'lease'}: nothing done", highlight=False, soft_wrap=True)


def chosen_windows(config: DistillJobConfig, online: str | None, heldout: str | None) -> DrafterWindows:
    """Windows of the named captioning runs; of the demo world where none is named."""
    stored = heldout_of_run(config, heldout) if heldout else None
    measured = demo_heldout(config) if stored is None else measured_windows(config, stored)
    validates_on_run = stored and config.validation.windows
    validation = validation_windows(config, stored) if stored and validates_on_run else demo_validation(config)
    online_run = windows_of_run(config, online) if online else []
    refuse_leakage(config.states, online_run, stored or {})
    training = demo_training_windows(config)
    if online:
        of_run = [online_window(window) for window in online_run]
        training = TrainingWindows(training.requests, {"run": absolute(online)}, of_run)
    return DrafterWindows(training, measured, validation)


def show(console: Console, outcome: DrafterOutcome) -> None:
    """Print the outcome of the run."""
    if outcome.waiting:
        console.print(outcome.waiting, highlight=False, soft_wrap=True)
        return
    show_acceptance(console, outcome.measured)
    console.print(f"drafter in {outcome.folder}", highlight=False, soft_wrap=True)
    if outcome.judgement:
        console.print(outcome.judgement, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
