"""Compare a run's captions with another run's, or with the target's own: `python jobs/audit.py RUN --against OTHER`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from jobs.demo_models import DEMO
from jobs.errors import exit_on_error
from jobs.options import ThreadsOption
from jobs.submitted import refuse_relative
from pipeline.captioning.audit import Finding, WindowReader, compare_runs, compare_with_oracle
from pipeline.captioning.stored_windows import CaptionRunTable
from pipeline.common.rows import Row
from sparrow_core.config import DecodeConfig
from sparrow_core.errors import ConfigError
from sparrow_core.targets.loading import load_target, read_frame_spec

ALL_EQUAL, USAGE, DIFFERENT = 0, 2, 4


def main(
    run: Annotated[str, typer.Argument(help="Output folder of a captioning run.")],
    against: Annotated[
        str, typer.Option(help="Another run's folder, or oracle: the target's autoregressive loop.")
    ] = "oracle",
    target: Annotated[str, typer.Option(help="Target of the run, for the oracle and for margins.")] = DEMO["target"],
    share: Annotated[float, typer.Option(help="Share of the windows that the oracle decodes again.")] = 1.0,
    margins: Annotated[bool, typer.Option(help="Measure the logit margin at each first difference.")] = True,
    output: Annotated[Path | None, typer.Option(help="JSON file for all findings.")] = None,
    threads: ThreadsOption = 2,
    deadline_s: Annotated[
        float, typer.Option(help="Time limit for decoding a video; at least the run's decode.deadline_s.")
    ] = DecodeConfig.deadline_s,
) -> None:
    """Compare captions token by token: count equal ones; show where, and by what logit margin, the others first differ.

    Exit codes: 0 all equal; 2 wrong usage; 4 some differ.
    """
    torch.set_num_threads(threads)
    console = Console()
    with exit_on_error():
        refuse_relative({"run": run, "--against": against if against != "oracle" else None, "--output": output})
        findings = list(_findings(run, against, target, share, margins, DecodeConfig(deadline_s)))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    raise typer.Exit(show(console, findings))


def _findings(
    run: str, against: str, target: str, share: float, margins: bool, decode: DecodeConfig
) -> Iterator[Finding]:
    audited = CaptionRunTable(run)
    reader = cache(partial(_reader, audited, target, decode))  # loaded on first use: equal runs need no target
    if against == "oracle":
        compared: Iterator[tuple[Row, Finding, Sequence[int]]] = compare_with_oracle(audited, reader(), share)
    else:
        compared = compare_runs(audited, CaptionRunTable(against))
    for row, finding, other in compared:
        if finding.first_difference is not None and margins:
            margin = reader().margin(row, row["token_ids"], other, finding.first_difference)
            finding = replace(finding, margin=margin)
        yield finding


def _reader(run: CaptionRunTable, source: str, decode: DecodeConfig) -> WindowReader:
    """A reader of the run's windows, with the target and the dtype that generated their captions.

    Raises ConfigError if `source` is another checkpoint, or if the run was written in several dtypes.
    """
    dtypes = {row["dtype"] for row in run.rows.values()}
    if len(dtypes) > 1:
        raise ConfigError(f"the run was written in {', '.join(sorted(dtypes))}: the oracle decodes in one dtype only")
    model = load_target(source, dtype=next(iter(dtypes), "auto"))
    fingerprints = {row["target_fingerprint"] for row in run.rows.values()}
    if fingerprints - {model.info.fingerprint}:
        raise ConfigError(
            f"the run was written by target {', '.join(sorted(fingerprints))}, but {source} is "
            f"{model.info.fingerprint}; name its checkpoint with --target"
        )
    return WindowReader(model, run.settings, read_frame_spec(source), decode)


def show(console: Console, findings: Sequence[Finding]) -> int:
    """Print the differences and the number of equal windows. Returns the exit code."""
    different = [finding for finding in findings if finding.first_difference is not None]
    if different:
        table = Table("video", "from s", "to s", "tokens", "first difference", "margin")
        for finding in different:
            where = (finding.source_uri, finding.start_s, finding.end_s)
            table.add_row(*map(str, (*where, finding.num_tokens, finding.first_difference, finding.margin)))
        console.print(table)
    console.print(f"{len(findings) - len(different)} of {len(findings)} windows equal", highlight=False)
    if not findings:
        console.print(
            "nothing was compared: no window is in both runs, or in the --share of the oracle", highlight=False
        )
        return USAGE
    return DIFFERENT if different else ALL_EQUAL


if __name__ == "__main__":
    typer.run(main)
