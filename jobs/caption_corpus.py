"""Caption a collection of videos: `python jobs/caption_corpus.py --input videos/ --output out/captions`."""

from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.demo_models import DEMO
from jobs.errors import exit_on_error
from jobs.options import ConfigOption, DraftOption, InputOption, PromptOption, SettingsOption, TargetOption
from jobs.submitted import refuse_relative
from pipeline.captioning.config import CaptionConfig, caption_config
from pipeline.captioning.console import advance, progress_bar, show_captions, show_start, show_summary
from pipeline.captioning.run import (
    ExitCode,
    PreparedRun,
    RunCallbacks,
    execute,
    exit_code,
    exit_code_of_nothing_to_do,
    prepare,
)
from pipeline.common.storage import list_videos

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    source: InputOption,
    output: Annotated[str, typer.Option(help="Folder for captions/*.parquet and report.json.")],
    target: TargetOption = None,
    draft: DraftOption = None,
    prompt: PromptOption = None,
    config: ConfigOption = None,
    settings: SettingsOption = None,
) -> None:
    """Caption videos with a video LLM and a drafter, into a Parquet table.

    Run again, the command captions only the windows that are missing. It refuses other settings for the same output.

    Exit codes: 0 all done; 2 wrong usage or settings; 3 finished, but some windows are error rows or were lost;
    4 the audit found a caption that differs without the drafter; 130 interrupted, finished parts are kept.
    """
    console = Console()
    try:
        flags = {"target": target, "draft": draft, "prompt": prompt}
        with exit_on_error():
            code = run(source, output, caption_config(config, settings or [], flags, DEMO), console)
    except KeyboardInterrupt:  # before the graph runs; from then on, the run handles Ctrl-C itself and reports
        code = ExitCode.INTERRUPTED
    raise typer.Exit(code)


def run(source: str, output: str, config: CaptionConfig, console: Console) -> ExitCode:
    """Caption the windows of `source` that `output` lacks, and print the captions and the summary."""
    refuse_relative({"--input": source, "--output": output})
    prepared = prepare(config, list_videos(source), output)
    if not prepared.work.sources:
        console.print(f"nothing to do: {output} holds a row for every window", highlight=False)
        return exit_code_of_nothing_to_do(prepared)
    report = run_with_progress(prepared, console)
    show_captions(console, prepared.ledger)
    show_summary(console, report, prepared.ledger.folder.url)
    return exit_code(report)


def run_with_progress(prepared: PreparedRun, console: Console) -> dict[str, Any]:
    """Execute the run under a progress bar, whose total is known only if every video is a single window."""
    whole_videos = prepared.config.segment.window_s is None
    total = len(prepared.work.sources) if whole_videos else None
    with progress_bar(console) as progress:
        progress.add_task("caption", total=total, errors=0, tokens_per_s=0.0)
        return execute(prepared, RunCallbacks(partial(show_start, console), partial(advance, progress)))


if __name__ == "__main__":
    app()
