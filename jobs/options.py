"""Command-line options that several commands share, each declared once with its help text."""

from pathlib import Path
from typing import Annotated

import typer

InputOption = Annotated[str, typer.Option("--input", help="Video file, folder, glob or fsspec URL.")]
TargetOption = Annotated[str | None, typer.Option(help="Target: checkpoint folder or hub id. Default: the demo model.")]
DraftOption = Annotated[
    str | None,
    typer.Option(
        help="Drafter: folder, registry, hub id, or none. Default: the demo drafter with the demo model, else none."
    ),
]
PromptOption = Annotated[str | None, typer.Option(help="Prompt for every window.")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
RequiredConfigOption = Annotated[Path, typer.Option(help="YAML file of settings.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting that overrides the file's, as key.path=value; may be repeated."),
]
HeldOutOption = Annotated[
    str | None, typer.Option(help="Measure on the windows of this captioning run. Default: demo windows.")
]
DemoTargetOption = Annotated[str, typer.Option(help="A demo checkpoint folder.")]
DemoDraftOption = Annotated[str, typer.Option(help="A drafter for that checkpoint: a folder.")]
ThreadsOption = Annotated[int, typer.Option(help="Number of torch threads.")]
