"""The curriculum of the demo target: from one object to several, and from short clips to very long ones."""

from dataclasses import dataclass

import numpy as np

from demo.world import Difficulty

# Clip shapes (width, height, frames) by their number of visual tokens.
CLIP_SHAPES = {
    64: ((112, 112, 8),),
    96: ((112, 112, 12), (168, 112, 8)),
    144: ((168, 168, 8), (112, 168, 12)),
    256: ((224, 224, 8), (112, 112, 32), (168, 168, 14)),
    512: ((224, 224, 16), (168, 168, 28), (112, 112, 64)),
    1500: ((224, 224, 48), (168, 168, 84), (280, 224, 38)),
    6000: ((224, 224, 188), (168, 168, 334), (336, 280, 100)),
    17000: ((224, 224, 532), (336, 280, 284)),
    25000: ((224, 224, 784), (336, 280, 418)),
}
FPS = (1.0, 2.0, 2.0, 2.0, 4.0)
TOKENS_PER_BATCH = 2600


@dataclass(frozen=True)
class Stage:
    """A stage of the joint training, up to the share `until` of its time. `lengths` maps visual length -> weight."""

    until: float
    max_objects: int
    max_events: int
    lengths: dict[int, float]


FIRST_STAGES = (
    Stage(0.05, 1, 1, {64: 1.0}),
    Stage(0.13, 2, 2, {64: 1.0}),
    Stage(0.28, 3, 3, {64: 0.9, 96: 0.1}),
    Stage(0.70, 4, 3, {64: 0.8, 96: 0.1, 144: 0.1}),
    Stage(1.01, 4, 3, {64: 0.5, 144: 0.15, 256: 0.15, 512: 0.15, 1500: 0.05}),
)
# Stages of a run that starts from trained weights.
LATER_STAGES = (
    Stage(0.50, 4, 3, {64: 0.4, 144: 0.15, 256: 0.15, 512: 0.15, 1500: 0.15}),
    Stage(1.01, 4, 3, {64: 0.3, 256: 0.2, 512: 0.2, 1500: 0.2, 6000: 0.092, 17000: 0.004, 25000: 0.004}),
)


def draw_difficulty(
    progress: float, rng: np.random.Generator, stages: tuple[Stage, ...] = FIRST_STAGES
) -> tuple[Difficulty, int]:
    """Draw the difficulty of a batch at this point of the training (0 to 1), and its number of clips."""
    stage = next(stage for stage in stages if progress <= stage.until)
    lengths = list(stage.lengths)
    length = lengths[int(rng.choice(len(lengths), p=np.array(list(stage.lengths.values()))))]
    width, height, frames = CLIP_SHAPES[length][int(rng.integers(len(CLIP_SHAPES[length])))]
    fps = FPS[int(rng.integers(len(FPS)))]
    difficulty = Difficulty(width, height, frames, fps, max_objects=stage.max_objects, max_events=stage.max_events)
    return difficulty, max(1, TOKENS_PER_BATCH // (difficulty.num_visual_tokens + 100))
