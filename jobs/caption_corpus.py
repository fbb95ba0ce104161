"""Caption a collection of videos: `python jobs/caption_corpus.py --input videos/ --output out/captions`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.errors import exit_on_error
from jobs.submitted import refuse_relative
from pipeline.captioning.config import CaptionConfig, caption_config
from pipeline.captioning.console import advance, progress_bar, show_captions, show_start, show_summary
from pipeline.captioning.run import (
    ExitCode,
    Prepared,
    RunCallbacks,
    execute,
    exit_code,
    exit_code_of_nothing_to_do,
    prepare,
)
from pipeline.common.storage import list_videos

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DEMO_WEIGHTS = Path(__file__).parents[1] / "demo" / "weights"
DEMO = {"target": str(DEMO_WEIGHTS / "target"), "draft": str(DEMO_WEIGHTS / "drafter")}


@app.command()
def main(
    source: Annotated[str, typer.Option("--input", help="Video file, folder, glob or fsspec URL.")],
    output: Annotated[str, typer.Option(help="Folder for captions/*.parquet and report.json.")],
    target: Annotated[str | None, typer.Option(help="Target: checkpoint folder or hub id. [demo model]")] = None,
    draft: Annotated[
        str | None, typer.Option(help="Drafter: folder, hub id, or none. [demo drafter, else none]")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What to ask about every window.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="One setting, as frames.fps=1.0.")] = None,
) -> None:
    """Caption videos with a video LLM and a drafter, into a Parquet table.

    The same command again does only what is missing. Other settings on the same output folder are refused.

    Exit codes: 0 all done; 2 wrong usage or settings; 3 finished, but some windows are error rows or were lost;
    4 the audit found a caption that differs without the drafter; 130 interrupted, finished parts are kept.
    """
    console = Console()
    try:
        flags = {"target": target, "draft": draft, "prompt": prompt}
        with exit_on_error():
            code = run(source, output, caption_config(config, settings or [], flags, DEMO), console)
    except KeyboardInterrupt:  # before the first window; later on, the run itself ends early and reports
        code = ExitCode.INTERRUPTED
    raise typer.Exit(code)


def run(source: str, output: str, config: CaptionConfig, console: Console) -> ExitCode:
    """Caption what is missing in `output` of the videos that `source` names, and show it."""
    refuse_relative({"--input": source, "--output": output})
    prepared = prepare(config, list_videos(source), output)
    if not prepared.work.sources:
        console.print(f"nothing to do: {output} holds a row for every window", highlight=False)
        return exit_code_of_nothing_to_do(prepared)
    report = run_with_progress(prepared, console)
    show_captions(console, prepared.ledger)
    show_summary(console, report, prepared.ledger.folder.url)
    return exit_code(report)


def run_with_progress(prepared: Prepared, console: Console) -> dict[str, Any]:
    """Execute the run under a progress bar; its total is known where every video is one window."""
    whole_videos = prepared.config.segment.window_s is None
    total = len(prepared.work.sources) if whole_videos else None
    with progress_bar(console) as progress:
        progress.add_task("caption", total=total, errors=0, tokens_per_s=0.0)
        return execute(prepared, RunCallbacks(partial(show_start, console), partial(advance, progress)))


if __name__ == "__main__":
    app()
