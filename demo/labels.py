"""Labels of each visual token of a clip, which train the vision tower before and beside the captions.

LOOKS are visible in the two frames of a token; the vision tower learns them. STORIES are what a caption says of the
object that covers the token; they depend on the whole frame and on time, so a layer of the language model learns them.
"""

import numpy as np

from demo.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    COLUMNS,
    MOTIONS,
    ROWS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    positions,
    scale,
)

TOKEN_PX = 28
MOVES = ("still", "right", "left", "up", "down", "spin", "grow", "shrink")
# Field of a label -> its number of classes. Fields of an object have the class 0 for "no object here".
LOOKS = {
    "background": len(BACKGROUNDS),
    "texture": len(TEXTURES),
    "colour": 1 + len(COLOURS),
    "shape": 1 + len(SHAPES),
    "size": 1 + len(SIZES),
    "move": 1 + len(MOVES),
    "row": 4,
    "column": 4,
}
STORIES = {
    "rank": 8,  # index of the object in the order of the caption
    "first_colour": 1 + len(COLOURS),
    "kind": 1 + len(SHAPES),
    "first_size": 1 + len(SIZES),
    "first_row": 4,
    "first_column": 4,
    "motion": 1 + len(MOTIONS),
}
FIELDS = LOOKS | STORIES
LEAST_COVER = 0.1  # share of a token's pixels that an object must cover to become the token's label


def token_labels(scene: Scene, cover: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Label every merged token of the clip: uint8 [T / 2, H / 28, W / 28, F], one class for each of the F FIELDS.

    `cover` is what `render` returned for `times_s`, an even number of frames.
    """
    T, H, W = cover.shape
    cells = cover.reshape(T // 2, 2, H // TOKEN_PX, TOKEN_PX, W // TOKEN_PX, TOKEN_PX)
    seen = np.stack([(cells == i).mean(axis=(1, 3, 5)) for i in range(1, len(scene.things) + 1)])
    shown = np.where(seen.max(axis=0) >= LEAST_COVER, seen.argmax(axis=0) + 1, 0)
    table = _thing_table(scene, times_s)
    labels = table[np.arange(T // 2)[:, None, None], shown]
    backdrop = np.array([BACKGROUNDS.index(scene.background), TEXTURES.index(scene.texture)])
    parts = [np.broadcast_to(backdrop, (*shown.shape, 2)), labels, _story_table(scene)[shown]]
    return np.concatenate(parts, axis=-1).astype(np.uint8)


def _story_table(scene: Scene) -> np.ndarray:
    """STORIES of each object, [1 + objects, 7]; object 0 is the background."""
    rows = [[0] * len(STORIES)]
    for index, thing in enumerate(scene.things):
        row, column = thing.place
        told = [COLOURS.index(thing.colour), SHAPES.index(thing.shape), list(SIZES).index(thing.size)]
        told += [ROWS.index(row), COLUMNS.index(column), MOTIONS.index(thing.motion)]
        rows.append([index + 1, *(value + 1 for value in told)])
    return np.array(rows)


def _thing_table(scene: Scene, times_s: np.ndarray) -> np.ndarray:
    """LOOKS of each object at each pair of frames, [T / 2, 1 + objects, 6]; object 0 is the background."""
    pairs = (times_s / scene.duration_s).reshape(-1, 2)
    table = np.zeros((len(pairs), 1 + len(scene.things), 6), np.int64)
    for index, thing in enumerate(scene.things):
        x, y = positions(thing, pairs, scene.difficulty.num_frames)
        size = SIZES[thing.size] * scale(thing, pairs[:, 0])
        nearest = np.abs(size[:, None] - np.array(list(SIZES.values()))).argmin(axis=1)
        repainted = thing.recolour is not None and thing.recolour[0] <= pairs[:, 1]
        late = COLOURS.index(thing.recolour[1]) if thing.recolour else 0
        table[:, index + 1, 0] = 1 + np.where(repainted, late, COLOURS.index(thing.colour))
        table[:, index + 1, 1] = 1 + SHAPES.index(thing.shape)
        table[:, index + 1, 2] = 1 + nearest
        table[:, index + 1, 3] = [
            1 + MOVES.index(_move(thing, *step)) for step in zip(np.diff(x), np.diff(y), strict=True)
        ]
        table[:, index + 1, 4] = 1 + np.clip(y[:, 0] * 3, 0, 2).astype(int)
        table[:, index + 1, 5] = 1 + np.clip(x[:, 0] * 3, 0, 2).astype(int)
    return table


def _move(thing: Thing, dx: np.ndarray, dy: np.ndarray) -> str:
    """The visible motion of the object from one frame to the next."""
    if thing.path or thing.motion == "sideways":
        return "right" if dx > 0 else "left"
    if thing.motion == "vertical":
        return "down" if dy > 0 else "up"
    return thing.motion
