"""Scenes of the demo world as caption requests, for jobs that train and measure drafters.

A request depends on its index and the settings alone; its frames are rendered, not decoded from files.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from demo.curriculum import CLIP_SHAPES, FPS
from demo.tokenizer import DEFAULT_PROMPT, PROMPTS
from demo.world import Difficulty, Scene, frame_times, make_scene, render, through_codec
from sparrow_core.errors import ConfigError
from sparrow_core.types import Frames, Message, Request, Sampling

Split = Literal["train", "validation", "heldout"]
CODEC_SHARE = 0.5  # share of the windows that go through a real encoder and decoder
DEFAULT_PROMPT_SHARE = 0.7


def window_counts(text: str, default: int | None = None) -> dict[int, int]:
    """Number of windows by visual length, from text such as `64:150,512:90`. A missing number becomes `default`.

    Raises ValueError for malformed text, and for a length that no demo clip has.
    """
    counts = {}
    for item in text.split(","):
        length, colon, count = item.partition(":")
        counts[int(length)] = int(count) if colon or default is None else default
    _refuse_unknown(counts)
    if min(counts.values()) < 1:
        raise ValueError("there is one window of a length at least")
    return counts


def _refuse_unknown(lengths: Collection[int]) -> None:
    if not lengths or set(lengths) - CLIP_SHAPES.keys():
        raise ConfigError(f"lengths {list(lengths)}: demo clips have {', '.join(map(str, CLIP_SHAPES))} visual tokens")


@dataclass(frozen=True)
class DemoWindows:
    """A numbered set of windows of one split.

    `lengths` are numbers of visual tokens (keys of `CLIP_SHAPES`); one that is listed twice is drawn twice as often.
    With `varied_prompts`, a share of the windows has another prompt than the default one. With `stills`, a window shows
    only the middle frame, as a video of two equal frames.
    """

    split: Split
    lengths: tuple[int, ...]
    first_seed: int
    varied_prompts: bool = False
    stills: bool = False

    def __post_init__(self) -> None:
        _refuse_unknown(self.lengths)

    def scene(self, index: int) -> Scene:
        """The scene of window `index`."""
        rng = np.random.default_rng([11, self.first_seed, index])
        shapes = CLIP_SHAPES[self.lengths[int(rng.integers(len(self.lengths)))]]
        width, height, frames = shapes[int(rng.integers(len(shapes)))]
        fps = FPS[int(rng.integers(len(FPS)))]
        return make_scene(self.first_seed + index, self.split, Difficulty(width, height, frames, fps))

    def request(self, index: int, max_new_tokens: int) -> Request:
        """Window `index` as a greedy request."""
        rng = np.random.default_rng([12, self.first_seed, index])
        scene = self.scene(index)
        pixels_THWC, _ = render(scene)
        if rng.random() < CODEC_SHARE:
            pixels_THWC = through_codec(pixels_THWC, scene.difficulty.fps, crf=int(rng.integers(16, 29)))
        times = tuple(frame_times(scene).tolist())
        if self.stills:
            middle = len(pixels_THWC) // 2
            pixels_THWC, times = np.repeat(pixels_THWC[middle : middle + 1], 2, axis=0), times[:2]
        frames = Frames(pixels_THWC, times, scene.difficulty.fps)
        prompt = DEFAULT_PROMPT
        if self.varied_prompts and rng.random() >= DEFAULT_PROMPT_SHARE:
            prompt = PROMPTS[int(rng.integers(len(PROMPTS)))]
        messages = (Message("user", (frames, prompt)),)
        return Request(messages, Sampling(), max_new_tokens, f"{self.split}-{self.first_seed + index}")
