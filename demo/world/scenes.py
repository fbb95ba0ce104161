"""The description of a scene: the objects of a clip, how they move, and which events happen when.

Knows nothing of pixels, words or files, nor of how scenes are generated (`placement.py`). Coordinates are fractions of
the frame (x to the right, y down), sizes are fractions of its shorter side, event times are fractions of the clip.
"""

from dataclasses import dataclass

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart")
ROUND_SHAPES = ("circle", "ring")
SIZES = {"small": 0.26, "medium": 0.38, "large": 0.54}
BACKGROUNDS = ("black", "gray", "navy", "olive", "maroon", "teal")
TEXTURES = ("plain", "striped", "checkered", "dotted", "shaded")
MOTIONS = ("still", "right", "left", "up", "down", "sideways", "vertical", "spin", "grow", "shrink")
MOTION_WEIGHTS = (0.14, 0.12, 0.12, 0.12, 0.12, 0.08, 0.08, 0.08, 0.07, 0.07)
EVENTS = ("appear", "vanish", "recolour", "collide", "overtake")
TIMES = {"early": (0.16, 0.30), "middle": (0.44, 0.58), "late": (0.72, 0.86)}
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
SPLITS = ("train", "validation", "heldout")

GROWTH = {"grow": 1.5, "shrink": 0.55}
SHUTTLE = 0.3  # distance that a bouncing object travels before it turns, as a fraction of the frame


@dataclass(frozen=True)
class Difficulty:
    """Size of a clip in pixels and sampled frames, and limits on its number of objects and events."""

    width_px: int = 112
    height_px: int = 112
    num_frames: int = 8
    fps: float = 2.0
    min_objects: int = 1
    max_objects: int = 4
    max_events: int = 3

    @property
    def num_visual_tokens(self) -> int:
        """Number of visual tokens of the clip; one covers 28 x 28 pixels of 2 frames."""
        return self.num_frames // 2 * (self.height_px // 28) * (self.width_px // 28)


@dataclass(frozen=True)
class Thing:
    """One object: its looks, where it starts, how it moves, and when it is visible (clip times `start` to `end`)."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    motion: str
    speed: float = 0.0  # fraction of the frame per sampled frame
    angle: float = 0.0  # radians
    path: tuple[tuple[float, float], ...] = ()  # knots (clip time, x) of a scripted horizontal path
    start: float = 0.0
    end: float = 2.0
    recolour: tuple[float, str] | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Row and column of the 3 x 3 cell in which the object starts."""
        return ROWS[min(int(self.y * 3), 2)], COLUMNS[min(int(self.x * 3), 2)]


@dataclass(frozen=True)
class Event:
    """An event of the clip; `subject` and `other` are indices of the scene's objects."""

    kind: str
    time: float
    subject: int
    other: int | None = None
    colour: str | None = None

    @property
    def when(self) -> str:
        """The third of the clip in which the event happens, as captions name it."""
        return next(name for name, (_, latest) in TIMES.items() if self.time <= latest + 0.05)


@dataclass(frozen=True)
class Scene:
    """The full description of a clip. Objects are ordered from left to right, events by time."""

    split: str
    seed: int
    difficulty: Difficulty
    background: str
    texture: str
    things: tuple[Thing, ...]
    events: tuple[Event, ...]

    @property
    def duration_s(self) -> float:
        """Length of the clip in seconds."""
        return self.difficulty.num_frames / self.difficulty.fps


def positions(thing: Thing, clip_time: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the object, (x, y), at the given clip times (fractions of the clip, any shape)."""
    x, y = np.full_like(clip_time, thing.x), np.full_like(clip_time, thing.y)
    if thing.path:
        times, knots = zip(*thing.path, strict=True)
        return np.interp(clip_time, times, knots), y
    travelled = np.maximum(clip_time - max(thing.start, 0.0), 0.0) * num_frames * thing.speed
    margin = SIZES[thing.size] / 2
    if thing.motion in ("right", "left"):
        x = _wrap(thing.x + (travelled if thing.motion == "right" else -travelled), margin)
    elif thing.motion in ("down", "up"):
        y = _wrap(thing.y + (travelled if thing.motion == "down" else -travelled), margin)
    elif thing.motion == "sideways":
        x = thing.x + _shuttle(travelled) * (1 if thing.x < 0.5 else -1)
    elif thing.motion == "vertical":
        y = thing.y + _shuttle(travelled) * (1 if thing.y < 0.5 else -1)
    return x, y


def scale(thing: Thing, clip_time: np.ndarray) -> np.ndarray:
    """Diameter at the given clip times, relative to the initial diameter."""
    return 1.0 + (GROWTH.get(thing.motion, 1.0) - 1.0) * clip_time


def _wrap(position: np.ndarray, margin: float) -> np.ndarray:
    """Let an object that has left the frame completely re-enter on the other side."""
    return (position + margin) % (1 + 2 * margin) - margin


def _shuttle(travelled: np.ndarray) -> np.ndarray:
    return SHUTTLE - np.abs(SHUTTLE - travelled % (2 * SHUTTLE))
