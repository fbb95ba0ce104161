"""What a person reads about a drafter: acceptance as a table, as JSON, and in its model card."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.distill_config import DistillRunConfig
from pipeline.report.markdown import markdown_table
from pipeline.storage import Folder
from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow

_SIGHTS = {
    "text": "text positions",
    "bridge": "text and the states of the bridge layer at visual positions",
    "embeddings": "text and visual embeddings",
    "summary": "text and a summary of visual embeddings",
}
_HEADINGS = ("drafter", "draft", "T", "visual tokens", "windows", "tau", "95 % interval", "by depth", "entropy (nats)")


def show_acceptance(console: Console, rows: Sequence[AcceptanceRow]) -> None:
    """Print one line per (draft shape, temperature, visual length); tau counts the bonus token. By depth it is in the
    card and in the JSON."""
    shown = [heading for heading in _HEADINGS if heading != "by depth"]
    table = Table(*shown, title="tau: tokens per target call, bonus token counted")
    for row in rows:
        cells = dict(zip(_HEADINGS, _cells(row), strict=True))
        table.add_row(*(cells[heading] for heading in shown))
    console.print(table)


def store_acceptance(path: Path, rows: Sequence[AcceptanceRow]) -> None:
    """Write the rows as a JSON list."""
    content = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    Folder(str(path.parent)).write(path.name, content.encode())


def read_acceptance(path: Path) -> list[AcceptanceRow]:
    """The rows of a file of `store_acceptance`. Raises ConfigError where there is none, or one of another version."""
    try:
        return [AcceptanceRow(**row) for row in json.loads(path.read_text())]
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}; measure the drafter with jobs/evaluate_draft.py first") from error
    except TypeError as error:
        raise ConfigError(f"{path} was written by another version ({error}); measure the drafter again") from error


def drafter_card(config: DistillRunConfig, num_captions: int, rows: Sequence[AcceptanceRow]) -> str:
    """The model card: what the drafter is for, how it was made, and what it reached."""
    train = config.train
    bridge = f"shown to a share of {train.bridge_share:g} of the windows" if config.shows_bridge else "not used"
    lines = [
        "---",
        "library_name: sparrow",
        "---",
        f"# Sparrow drafter for `{Path(config.target).name}`",
        "",
        f"One decoder layer over {_SIGHTS[config.sees]} that reads the target's final-norm states. It works with the",
        "target that `target_fingerprint` in `config.json` names, and with no other.",
        "",
        f"- Data: {num_captions} captions of the target's own.",
        f"- Training: {train.steps} steps of {train.batch_size} captions, {train.recursions} recursions (MTP), "
        f"visual bridge states (IVSB) {bridge}, learning rate {train.learning_rate:g}.",
        f"- Blind (target states zeroed): {'yes' if config.blind else 'no'}.",
        "",
        *_markdown(rows),
    ]
    return "\n".join(lines) + "\n"


def _markdown(rows: Sequence[AcceptanceRow]) -> list[str]:
    if not rows:
        return ["Not measured yet."]
    title = "Acceptance on held-out windows; tau is tokens per target call, bonus token counted."
    return [title, "", markdown_table(_HEADINGS, map(_cells, rows))]


def _cells(row: AcceptanceRow) -> list[str]:
    return [
        row.drafter,
        row.draft,
        f"{row.temperature:g}",
        row.bucket,
        str(row.windows),
        f"{row.tau:.2f}",
        f"{row.tau_low:.2f} to {row.tau_high:.2f}",
        " ".join(f"{share:.2f}" for share in row.depth_acceptance),
        f"{row.mean_entropy:.3f}",
    ]
