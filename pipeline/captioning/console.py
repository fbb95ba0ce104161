"""Console output of a captioning run: the start, the progress bar, the captions of a small run, the summary."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.captioning.config import CaptionConfig
from pipeline.captioning.ledger import Ledger, Work
from pipeline.captioning.report import RunFigures
from pipeline.common.memory import MemoryNeed
from pipeline.common.resources import ResourcePlan

MOST_CAPTIONS_SHOWN = 20


def show_start(console: Console, config: CaptionConfig, plan: ResourcePlan, need: MemoryNeed, work: Work) -> None:
    """Print models, workers, memory need and number of videos, before anything is loaded."""
    gpus = f", {plan.caption_gpus:g} GPU" if plan.caption_gpus else ""
    console.print(
        f"target   {config.target} ({config.device}, dtype {config.dtype}; {need})", highlight=False, soft_wrap=True
    )
    drafter = config.draft or "none: the target decodes alone, one token per call"
    console.print(f"drafter  {drafter}", highlight=False, soft_wrap=True)
    console.print(
        f"workers  {plan.caption_workers} captioning ({plan.threads} threads{gpus}), {plan.decode_workers} decoding",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"videos   {len(work.sources)} to do", highlight=False, soft_wrap=True)


def progress_bar(console: Console) -> Progress:
    """A progress bar of windows, with errors and committed tokens per second."""
    return Progress(
        TextColumn("captioning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("windows · {task.fields[errors]} errors · {task.fields[tokens_per_s]:.1f} tokens/s ·"),
        TimeElapsedColumn(),
        console=console,
    )


def show_captions(console: Console, ledger: Ledger) -> None:
    """Print each caption under its file name, if the table has at most MOST_CAPTIONS_SHOWN rows."""
    columns = ["source_uri", "start_s", "end_s", "status", "reason", "error", "caption"]
    rows = ledger.table(columns)
    if rows.num_rows > MOST_CAPTIONS_SHOWN:
        return
    for row in sorted(rows.to_pylist(), key=lambda row: (row["source_uri"], row["start_s"] or 0.0)):
        span = "" if row["start_s"] is None else f"  {row['start_s']:.1f}-{row['end_s']:.1f} s"
        console.print(Text(f"\n{Path(row['source_uri']).name}{span}", style="bold"))
        if row["status"] == "success":
            console.print(Text(row["caption"]), soft_wrap=True)
        else:
            console.print(Text(f"{row['reason']}: {row['error']}", style="red"), soft_wrap=True)


def show_summary(console: Console, report: dict[str, Any], folder: str) -> None:
    """Print the report's main figures."""
    windows, audit, run = report["windows"], report["audit"], report["run"]
    table = Table(show_header=False, box=None)
    table.add_row("windows", f"{windows['success']} captioned, {windows['error']} errors {report['errors'] or ''}")
    table.add_row("this run", f"{run['windows']} windows, {run['tokens']} tokens in {run['wall_s']:.1f} s")
    table.add_row("tokens/s", f"{report['tokens_per_s']:.2f} (wall clock, workers' start included)")
    if report["tau"] is not None:
        table.add_row("tau", f"{report['tau']:.2f} tokens per target call")
    table.add_row("audit", _audit_line(audit, report["draft"]))
    table.add_row("passes", _passes_line(report))
    if report["capture"]["windows"]:
        table.add_row("capture", _capture_line(report["capture"]))
    table.add_row("seconds", ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report["stage_s"].items()))
    table.add_row("ran on", f"{', '.join(report['device'])} {', '.join(report['dtype'])}, {report['threads']} threads")
    if report["lost_videos"]:
        table.add_row(
            "lost",
            f"{len(report['lost_videos'])} videos lack captions because their worker failed (see above); run again, "
            "with --set resources.windows_in_flight=1 to keep the others apart from the one that kills it",
        )
    table.add_row("stored in", folder)
    console.print()
    console.print(table, soft_wrap=True)


def advance(progress: Progress, figures: RunFigures) -> None:
    """Update the progress bar."""
    progress.update(
        progress.task_ids[0],
        completed=figures.windows,
        errors=figures.errors,
        tokens_per_s=figures.tokens_per_s,
    )


def _passes_line(report: dict[str, Any]) -> str:
    if report["batch_deviation"] is None:
        return "none produced a caption"
    if report["batch_deviation"] == 0:
        return "batch-invariant: a row's logits do not depend on the others in its pass"
    share = report["in_doubt_tokens"] / max(report["tokens"], 1)
    return (
        f"not batch-invariant on this machine (logits differ by up to {report['batch_deviation']:.2g}): "
        f"{report['in_doubt_tokens']} near-ties ({share:.2%} of the tokens) were decided by a single-row pass"
    )


def _capture_line(capture: dict[str, Any]) -> str:
    windows = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in sorted(capture["windows"].items()))
    size = f"{capture['bytes'] / 2**20:.1f} MiB of hidden states"
    return f"{windows}; {size} in {capture['seconds']:.1f} s of decoding and storing"


def _audit_line(audit: dict[str, int], draft: str | None) -> str:
    if draft is None:
        return "none: without a drafter there is nothing to compare"
    return f"{audit['equal']} of {audit['checked']} windows decoded again without the drafter are equal"
