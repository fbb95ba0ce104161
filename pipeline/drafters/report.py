"""What a person reads about a drafter: acceptance as a table, as JSON, and in its model card."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.common.markdown import markdown_table
from pipeline.drafters.config import DistillRunConfig
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
