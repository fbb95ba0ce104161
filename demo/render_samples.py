"""Render six held-out scenes as MP4 files: `python -m demo.render_samples FOLDER`."""

import sys
from pathlib import Path

from demo.world import Difficulty, make_scene, write_scene

FIRST_SEED = 70_000
# Width, height, sampled frames, most objects. Clips of 4 s and 64 visual tokens up to 16 s and 256, or 8 s and 512.
SAMPLES = (
    (112, 112, 8, 1),
    (112, 112, 8, 2),
    (168, 112, 8, 3),
    (168, 168, 8, 4),
    (112, 112, 32, 3),
    (224, 224, 16, 4),
)


def main(folder: Path) -> None:
    """Write sample-<n>.mp4; the same files every time."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (width, height, frames, objects) in enumerate(SAMPLES):
        difficulty = Difficulty(width, height, frames, fps=2.0, max_objects=objects)
        write_scene(folder / f"sample-{index}.mp4", make_scene(FIRST_SEED + index, "heldout", difficulty))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"{__doc__}\nerror: expected one folder, got {len(sys.argv) - 1} arguments")
    main(Path(sys.argv[1]))
