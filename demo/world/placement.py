"""Generates scenes from seeds: which objects a clip has, where they start, and what happens to them.

A scene is a pure function of split, seed and difficulty.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np

from demo.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    GROWTH,
    MOTION_WEIGHTS,
    MOTIONS,
    ROUND_SHAPES,
    SHAPES,
    SIZES,
    SPLITS,
    TEXTURES,
    TIMES,
    Difficulty,
    Event,
    Scene,
    Thing,
    positions,
    scale,
)

PAIR_EVENT_SHARE = 0.25  # of scenes with at least two objects
MIN_X_GAP = 0.15  # captions list objects from left to right, so their starting positions must differ visibly
SHORT_CLIP_FRAMES = 10  # up to this length, objects stay inside the frame; in longer clips they leave and re-enter


def make_scene(seed: int, split: str = "train", difficulty: Difficulty | None = None) -> Scene:
    """Return the scene of this seed. The splits use separate random streams, so that no scene is in two of them.

    Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: use one of {', '.join(SPLITS)}")
    level = difficulty or Difficulty()
    rng = np.random.default_rng([SPLITS.index(split), seed])
    num_things = int(rng.integers(level.min_objects, level.max_objects + 1))
    colours = list(rng.permutation(COLOURS))
    pair_event = None
    if num_things >= 2 and level.max_events and rng.random() < PAIR_EVENT_SHARE:
        pair_event = _choose(rng, ("collide", "overtake"))
    things = _place_things(rng, level, num_things, colours, pair_event)
    things, events = _add_events(rng, level, things, colours[num_things:], pair_event)
    background, texture = _choose(rng, BACKGROUNDS), _choose(rng, TEXTURES)
    return Scene(split, seed, level, background, texture, tuple(things), tuple(events))


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _draw(rng: np.random.Generator, options: tuple[str, ...], weights: tuple[float, ...]) -> str:
    """Draw one of the options with these weights, which need not sum to 1."""
    rest = rng.random() * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        rest -= weight
        if rest < 0:
            return option
    return options[-1]


def _place_things(
    rng: np.random.Generator, level: Difficulty, count: int, colours: list[str], pair_event: str | None
) -> list[Thing]:
    """Draw objects until none overlap at the start or, in short clips, ever. After 60 tries, take the best draw."""
    best: list[Thing] = []
    least = np.inf
    for _ in range(60):
        pair = _make_pair(rng, colours, pair_event) if pair_event else []
        others = [_make_thing(rng, level, colours[i], count) for i in range(len(pair), count)]
        things = sorted(pair + others, key=lambda thing: thing.x)
        clash = _clash(things, level)
        if clash < least:
            best, least = things, clash
        if clash <= 0:
            break
    return best


def _make_thing(rng: np.random.Generator, level: Difficulty, colour: str, count: int) -> Thing:
    motion = _draw(rng, MOTIONS, MOTION_WEIGHTS)
    shape = _choose(rng, SHAPES if motion != "spin" else tuple(s for s in SHAPES if s not in ROUND_SHAPES))
    weights = {3: (0.5, 0.4, 0.1), 4: (0.7, 0.3, 0.0)}.get(count, (0.34, 0.33, 0.33))
    possible = {"grow": (1, 0.5, 0), "shrink": (0, 1, 1)}.get(motion, (1, 1, 1))
    size = _draw(rng, tuple(SIZES), tuple(w * p for w, p in zip(weights, possible, strict=True)))
    margin = SIZES[size] * (GROWTH["grow"] if motion == "grow" else 1.0) / 2
    margin = min(margin, 0.3)
    low, high = [margin, margin], [1 - margin, 1 - margin]
    speed = float(rng.uniform(0.055, 0.08))
    reach = speed * (level.num_frames - 1)
    if level.num_frames <= SHORT_CLIP_FRAMES and motion in ("right", "left", "down", "up"):
        axis = 0 if motion in ("right", "left") else 1
        if motion in ("right", "down"):
            high[axis] = max(1 - reach - margin / 2, low[axis] + 0.05)
        else:
            low[axis] = min(reach + margin / 2, high[axis] - 0.05)
    if motion in ("sideways", "vertical"):  # not near the middle, where the first direction would be unclear
        axis = 0 if motion == "sideways" else 1
        near, far = (margin, 0.45) if rng.random() < 0.5 else (0.55, 1 - margin)
        low[axis], high[axis] = near, far
    x, y = (_off_borders(rng, a, b) for a, b in zip(low, high, strict=True))
    return Thing(colour, shape, size, x, y, motion, speed, angle=float(rng.uniform(-0.2, 0.2)))


def _off_borders(rng: np.random.Generator, low: float, high: float) -> float:
    """A coordinate in [low, high], if possible at least 0.03 away from the borders of the 3 x 3 grid."""
    value = 0.0
    for _ in range(8):
        value = float(rng.uniform(low, high))
        if min(abs(value - 1 / 3), abs(value - 2 / 3)) > 0.03:
            break
    return value


def _make_pair(rng: np.random.Generator, colours: list[str], kind: str) -> list[Thing]:
    """Two objects on scripted horizontal paths that collide, or one of which overtakes the other."""
    time = float(rng.uniform(*TIMES["middle"]))
    row = (0.22, 0.5, 0.78)[int(rng.integers(3))]
    sizes = [_draw(rng, ("small", "medium"), (0.6, 0.4)) for _ in range(2)]
    shapes = [_choose(rng, SHAPES) for _ in range(2)]
    if kind == "collide":
        half_gap = (SIZES[sizes[0]] + SIZES[sizes[1]]) / 4
        centre = float(rng.uniform(0.46, 0.54))
        travel = 0.24
        paths = [
            ((0.0, centre - half_gap - travel), (time, centre - half_gap), (1.0, centre - half_gap - travel)),
            ((0.0, centre + half_gap + travel), (time, centre + half_gap), (1.0, centre + half_gap + travel)),
        ]
        motions, rows = ["right", "left"], [row, row]
    else:
        starts = (0.12, 0.32)
        meet = float(rng.uniform(0.48, 0.56))
        paths = [((0.0, s), (time, meet), (1.0, s + (meet - s) / time)) for s in starts]
        motions, rows = ["right", "right"], [0.26, 0.74] if rng.random() < 0.5 else [0.74, 0.26]
        if rng.random() < 0.5:
            paths = [((0.0, 1 - s), (time, 1 - meet), (1.0, 1 - s - (meet - s) / time)) for s in starts]
            motions = ["left", "left"]
    return [
        Thing(colours[i], shapes[i], sizes[i], paths[i][0][1], rows[i], motions[i], path=paths[i]) for i in range(2)
    ]


def _clash(things: list[Thing], level: Difficulty) -> float:
    """How far objects overlap or start too close in x (<= 0: not at all); in long clips, only at first."""
    worst = max((MIN_X_GAP - abs(a.x - b.x) for a, b in combinations(things, 2)), default=0.0)
    if worst > 0:
        return 1 + worst
    checked = level.num_frames if level.num_frames <= SHORT_CLIP_FRAMES else 3
    times = np.arange(checked) / level.num_frames
    centres = [np.stack(positions(thing, times, level.num_frames)) for thing in things]
    for i, j in combinations(range(len(things)), 2):
        radii = (SIZES[things[i].size] * scale(things[i], times) + SIZES[things[j].size] * scale(things[j], times)) / 2
        distance = np.hypot(*(centres[i] - centres[j]))
        slack = 0.7 if not (things[i].path and things[j].path) else 0.0
        worst = max(worst, float((radii * slack - distance).max()))
    return worst


def _add_events(
    rng: np.random.Generator, level: Difficulty, things: list[Thing], spare_colours: list[str], pair_event: str | None
) -> tuple[list[Thing], list[Event]]:
    """Add events to the scene: at most one per object, and at most one per third of the clip."""
    events: list[Event] = []
    slots = list(TIMES)
    free = [i for i, thing in enumerate(things) if not thing.path]
    if pair_event:
        events.append(_pair_event(things, pair_event))
        slots.remove("middle")
    minimum = min(level.max_events, 1 if len(things) <= 2 else 0)
    wanted = int(rng.integers(minimum, level.max_events + 1)) - len(events)
    for when in list(rng.permutation(slots))[: max(wanted, 0)]:
        time = float(rng.uniform(*TIMES[when]))
        kind = _choose(rng, ("appear", "vanish", "recolour"))
        if kind == "appear":
            late = _latecomer(rng, level, things, spare_colours.pop(0), time)
            things = [*things, late]
            events.append(Event(kind, time, len(things) - 1))
        elif free:
            index = free.pop(int(rng.integers(len(free))))
            colour = spare_colours.pop(0) if kind == "recolour" else None
            change = {"end": time} if colour is None else {"recolour": (time, colour)}
            things = [*things[:index], replace(things[index], **change), *things[index + 1 :]]
            events.append(Event(kind, time, index, colour=colour))
    return things, sorted(events, key=lambda event: event.time)


def _pair_event(things: list[Thing], kind: str) -> Event:
    first, second = (i for i, thing in enumerate(things) if thing.path)
    if kind == "overtake" and things[first].motion == "left":
        first, second = second, first  # moving left, the object behind, which overtakes, is the one on the right
    return Event(kind, things[first].path[1][0], first, second)


def _latecomer(rng: np.random.Generator, level: Difficulty, things: list[Thing], colour: str, time: float) -> Thing:
    """A still object that appears at `time`, away from the other objects' paths from then on."""
    times = np.linspace(time, 1.0, 4)
    best, most = None, -np.inf
    for _ in range(12):
        size = _choose(rng, ("small", "medium"))
        x, y = (_off_borders(rng, 0.18, 0.82) for _ in range(2))
        thing = Thing(colour, _choose(rng, SHAPES), size, x, y, "still", start=time)
        room = min(
            float((np.hypot(*(np.stack(positions(o, times, level.num_frames)).T - (x, y)).T) - SIZES[o.size] / 2).min())
            for o in things
        )
        if room > most:
            best, most = thing, room
        if room > SIZES[size] / 2:
            break
    assert best is not None
    return best
