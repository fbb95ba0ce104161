"""Renders scenes: a small antialiased rasteriser in numpy.

Every shape is given by a table of its radius by angle, so that one routine draws all shapes.
"""

from functools import cache

import numpy as np

from demo.world.scenes import COLOURS, SIZES, Scene, Thing, positions, scale

RGB = {
    "red": (225, 35, 35), "orange": (245, 140, 25), "yellow": (245, 230, 45), "green": (40, 180, 60),
    "cyan": (60, 220, 230), "blue": (50, 90, 240), "purple": (150, 50, 200), "pink": (250, 150, 195),
    "white": (245, 245, 245), "black": (22, 22, 22), "gray": (112, 112, 112), "navy": (20, 28, 92),
    "olive": (92, 92, 30), "maroon": (96, 24, 44), "teal": (16, 92, 92),
}  # fmt: skip
TABLE_SIZE = 1024
SPIN_PER_FRAME = 0.38  # radians
TEXTURE_CONTRAST = 20


def frame_times(scene: Scene) -> np.ndarray:
    """The instants of the clip's sampled frames in seconds, [T]."""
    return np.arange(scene.difficulty.num_frames) / scene.difficulty.fps


def render(scene: Scene, times_s: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scene at these instants (default: those of its sampled frames).

    Returns frames, uint8 [T, H, W, 3], and cover, uint8 [T, H, W]: 0 where the background is visible, i + 1 where
    object i is.
    """
    level = scene.difficulty
    times = frame_times(scene) if times_s is None else times_s
    clip_time = times / scene.duration_s
    canvas = _background(scene)
    frames = np.repeat(canvas[None], len(times), axis=0)
    cover = np.zeros(frames.shape[:3], np.uint8)
    for index, thing in enumerate(scene.things):
        _draw(frames, cover, thing, index + 1, clip_time, level.num_frames)
    return frames, cover


def _draw(
    frames: np.ndarray, cover: np.ndarray, thing: Thing, label: int, clip_time: np.ndarray, num_frames: int
) -> None:
    height, width = frames.shape[1:3]
    xs, ys = positions(thing, clip_time, num_frames)
    radii = SIZES[thing.size] * min(height, width) / 2 * scale(thing, clip_time)
    turn = SPIN_PER_FRAME * num_frames if thing.motion == "spin" else 0.0
    for t, time in enumerate(clip_time):
        if not thing.start <= time < thing.end:
            continue
        colour = thing.recolour[1] if thing.recolour and time >= thing.recolour[0] else thing.colour
        radius, cx, cy = float(radii[t]), float(xs[t]) * width, float(ys[t]) * height
        left, right = max(int(cx - radius) - 1, 0), min(int(cx + radius) + 2, width)
        top, bottom = max(int(cy - radius) - 1, 0), min(int(cy + radius) + 2, height)
        if left >= right or top >= bottom:
            continue
        alpha = _coverage(
            thing.shape,
            np.arange(left, right)[None, :] + 0.5 - cx,
            np.arange(top, bottom)[:, None] + 0.5 - cy,
            radius,
            thing.angle + turn * float(time),
        )
        patch = frames[t, top:bottom, left:right]
        patch[:] = patch + alpha[..., None] * (np.array(RGB[colour], np.float32) - patch)
        cover[t, top:bottom, left:right][alpha > 0.5] = label


def _coverage(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Share of each pixel that the shape covers, float32 [h, w]."""
    distance = np.hypot(dx, dy)
    turns = (np.arctan2(dy, dx) - angle) / (2 * np.pi)
    edge = _outlines()[shape][(turns * TABLE_SIZE).astype(np.int32) % TABLE_SIZE] * radius
    alpha = np.clip(edge - distance + 0.5, 0, 1)
    if shape == "ring":
        alpha = np.minimum(alpha, np.clip(distance - 0.55 * radius + 0.5, 0, 1))
    return alpha.astype(np.float32)


@cache
def _outlines() -> dict[str, np.ndarray]:
    """Radius of each shape's outline by angle, in units of the shape's radius; corners are given for upright shapes."""
    angles = np.arange(TABLE_SIZE) * 2 * np.pi / TABLE_SIZE
    turn = np.linspace(0, 2 * np.pi, 10, endpoint=False) - np.pi / 2
    star = np.stack([np.cos(turn), np.sin(turn)], 1) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]
    arm = 0.3
    cross = [(arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm), (arm, 1)]
    cross += [(-x, -y) for x, y in cross]
    heart_t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    heart_x = 16 * np.sin(heart_t) ** 3
    heart_y = -(13 * np.cos(heart_t) - 5 * np.cos(2 * heart_t) - 2 * np.cos(3 * heart_t) - np.cos(4 * heart_t))
    return {
        "circle": np.full(TABLE_SIZE, 0.95),
        "ring": np.ones(TABLE_SIZE),
        "square": _polar(angles, np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])),
        "triangle": _polar(angles, np.array([(0, -1), (0.95, 0.75), (-0.95, 0.75)])),
        "star": _polar(angles, star),
        "cross": _polar(angles, np.array(cross)),
        "heart": _polar(angles, np.stack([heart_x, heart_y], 1) / 17),
    }


def _polar(angles: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distance of the farthest intersection of a polygon with the ray from the origin, for each of the angles [A]."""
    direction = np.stack([np.cos(angles), np.sin(angles)], 1)[:, None]
    start, side = corners[None], (np.roll(corners, -1, 0) - corners)[None]
    cross = direction[..., 0] * side[..., 1] - direction[..., 1] * side[..., 0]
    safe = np.where(np.abs(cross) < 1e-9, 1e-9, cross)
    along_ray = (start[..., 0] * side[..., 1] - start[..., 1] * side[..., 0]) / safe
    along_side = (start[..., 0] * direction[..., 1] - start[..., 1] * direction[..., 0]) / safe
    hit = (along_side >= -1e-6) & (along_side <= 1 + 1e-6) & (along_ray > 0)
    return np.where(hit, along_ray, 0).max(axis=1)


def _background(scene: Scene) -> np.ndarray:
    """The background, which does not change, uint8 [H, W, 3]."""
    height, width = scene.difficulty.height_px, scene.difficulty.width_px
    y, x = np.mgrid[:height, :width] / min(height, width)
    pattern = {
        "plain": np.zeros_like(x),
        "striped": np.where((x + y) * 8 % 1 < 0.5, 1.0, -0.6),
        "checkered": np.where(((x * 7).astype(int) + (y * 7).astype(int)) % 2, 1.0, -0.6),
        "dotted": np.where(np.hypot((x * 9) % 1 - 0.5, (y * 9) % 1 - 0.5) < 0.28, 1.5, 0.0),
        "shaded": (y * min(height, width) / height - 0.3) * 2.2,
    }[scene.texture]
    base = np.array(RGB[scene.background], np.float32)
    return np.clip(base + pattern[..., None] * TEXTURE_CONTRAST, 0, 255).astype(np.uint8)


assert set(COLOURS) <= set(RGB)
