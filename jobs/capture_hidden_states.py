"""Capture hidden states to train drafters: `python jobs/capture_hidden_states.py --input DIR --output DIR`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.demo_models import DEMO
from jobs.errors import exit_on_error
from jobs.options import ConfigOption, DraftOption, InputOption, PromptOption, SettingsOption, TargetOption
from jobs.submitted import refuse_relative
from pipeline.captioning.config import caption_config
from pipeline.captioning.run import ExitCode
from pipeline.common.storage import list_videos
from pipeline.drafters.capture_run import CaptureSummary, capture_videos

MOST_ERRORS_SHOWN = 20


def main(
    source: InputOption,
    output: Annotated[str, typer.Option(help="Folder or fsspec URL for the shards of hidden states.")],
    target: TargetOption = None,
    draft: DraftOption = None,
    prompt: PromptOption = None,
    config: ConfigOption = None,
    settings: SettingsOption = None,
) -> None:
    """Caption every window with the target at temperature 1 and store its hidden states, one shard per window.

    Run again, the command captures only the windows that are missing. A bad video costs one window. `capture.keep` sets
    what is stored, `capture.max_bytes` how much.

    Exit codes: 0 all done; 2 wrong usage or settings; 3 finished, but some windows are errors or were lost.
    """
    console = Console()
    flags = {"target": target, "draft": draft, "prompt": prompt}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with exit_on_error(), Progress(*columns, console=console) as progress:
        refuse_relative({"--input": source, "--output": output})
        task = progress.add_task("capturing")
        summary = capture_videos(
            caption_config(config, settings or [], flags, DEMO),
            list_videos(source),
            output,
            lambda so_far: progress.update(task, description=f"capturing · {so_far}"),
        )
    raise typer.Exit(show(console, summary, output))


def show(console: Console, summary: CaptureSummary, output: str) -> ExitCode:
    """Print errors, lost videos and the counts. Returns the exit code."""
    for error in summary.errors[:MOST_ERRORS_SHOWN]:
        console.print(error, style="red", markup=False, highlight=False, soft_wrap=True)
    for video in summary.lost:
        console.print(f"{video}: lost with its worker; run again", style="red", markup=False, soft_wrap=True)
    console.print(f"{summary} in {summary.seconds:.1f} s, stored in {output}", highlight=False, soft_wrap=True)
    return ExitCode.ERROR_ROWS if summary.errors or summary.lost else ExitCode.DONE


if __name__ == "__main__":
    typer.run(main)
