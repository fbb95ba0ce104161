"""Render a demo archive as MP4 files: `python -m demo.render_archive FOLDER --videos 200 --split train`."""

from pathlib import Path
from typing import Annotated

import typer

from demo.windows import DemoWindows, Split, window_counts
from demo.world import write_scene

FIRST_SEEDS: dict[Split, int] = {"train": 2_000_000_000, "validation": 30_000, "heldout": 20_000}


def main(
    folder: Annotated[Path, typer.Argument(help="Where the files go; the same files every time.")],
    videos: Annotated[int, typer.Option(help="Number of files.")] = 200,
    split: Annotated[str, typer.Option(help="train, validation or heldout; no scene is in two splits.")] = "train",
    lengths: Annotated[
        str, typer.Option(help="Visual tokens, comma separated; one that is listed twice is drawn twice as often.")
    ] = "64,64,144,512",
) -> None:
    """Write the scenes as scene-<n>.mp4. The captioning job samples them at 2 frames per second by default."""
    try:
        window_counts(",".join(dict.fromkeys(lengths.split(","))), 1)
    except ValueError as error:
        raise typer.BadParameter(f"{lengths!r}: {error}", param_hint="--lengths") from error
    if split not in FIRST_SEEDS:
        raise typer.BadParameter(f"{split!r} is none of {', '.join(FIRST_SEEDS)}", param_hint="--split")
    windows = DemoWindows(split, tuple(map(int, lengths.split(","))), FIRST_SEEDS[split])  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(videos):
        write_scene(folder / f"scene-{number:05d}.mp4", windows.scene(number))


if __name__ == "__main__":
    typer.run(main)
