"""The demo world: seeded scenes, their videos, captions and scores."""

import numpy as np

from demo.world.captions import parse_caption, write_caption
from demo.world.facts import Facts, facts_of
from demo.world.placement import make_scene
from demo.world.render import frame_times, render
from demo.world.scenes import SPLITS, Difficulty, Scene
from demo.world.score import MAIN_FACTS, chance, mean_scores, score
from demo.world.video import read_mp4, through_codec, write_mp4, write_scene

__all__ = [
    "MAIN_FACTS", "SPLITS", "Difficulty", "Facts", "Scene", "caption_of", "chance", "facts_of", "frame_times",
    "make_scene", "mean_scores", "parse_caption", "read_mp4", "render", "score", "through_codec", "write_caption",
    "write_mp4", "write_scene",
]  # fmt: skip


def caption_of(scene: Scene, phrasing: int = 0) -> str:
    """A correct caption of the scene; `phrasing` seeds the choice of words."""
    return write_caption(facts_of(scene), np.random.default_rng([SPLITS.index(scene.split), scene.seed, phrasing]))
