"""Training batches of the demo target: rendered, labelled, captioned and tokenised ahead in a worker process."""

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from demo.curriculum import FIRST_STAGES, Stage, draw_difficulty
from demo.labels import token_labels
from demo.model import token_id
from demo.tokenizer import DEFAULT_PROMPT, PROMPTS, load_tokenizer
from demo.world import Difficulty, Scene, caption_of, frame_times, make_scene, render, through_codec
from demo.world.captions import fact_words

SEEDS_PER_BATCH = 64  # seeds reserved for each batch, so that batch k does not depend on the batches before it
FACT_WEIGHT, PLAIN_WEIGHT = 1.0, 0.25
EXTRA_LOOKS = 320  # visual tokens of the frame pairs that are added to every caption batch
CODEC_SHARE = 0.4  # share of the training clips that go through a real encoder and decoder


@dataclass
class Batch:
    """Clips of one shape. B clips, T frames, V visual tokens per clip, S longest sequence."""

    frames: np.ndarray  # uint8 [B, T, H, W, 3]
    labels: np.ndarray  # uint8 [B, T / 2, H / 28, W / 28, F]
    input_ids: torch.Tensor  # int64 [B, S], padded on the right
    weights: torch.Tensor  # float32 [B, S], of predicting this token from those before it
    seconds_per_grid: float
    extra: "Batch | None" = None  # frame pairs with labels but no captions


def prompt_ids(tokenizer: PreTrainedTokenizerFast, num_visual_tokens: int, prompt: str = DEFAULT_PROMPT) -> list[int]:
    """Token ids of a conversation with one video, up to the beginning of the answer."""
    messages: Any = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": prompt}]}]
    text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    return tokenizer(text.replace("<|video_pad|>", "<|video_pad|>" * num_visual_tokens)).input_ids


def token_weights(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Loss weight of each token of the vocabulary: words that carry facts weigh four times as much as others."""
    facts = fact_words()
    words = [str(tokenizer.decode([i])).strip().lower() for i in range(len(tokenizer))]
    return torch.tensor([FACT_WEIGHT if word in facts else PLAIN_WEIGHT for word in words])


class CaptionBatches(IterableDataset[Batch]):
    """Endless caption batches from number `first` on. `progress` (0 to 1), updated by the trainer, sets the stage."""

    def __init__(
        self, tokenizer_dir: Path, progress: "Synchronized[float]", first: int, stages: tuple[Stage, ...]
    ) -> None:
        self.tokenizer_dir, self.progress, self.first, self.stages = tokenizer_dir, progress, first, stages

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        tokenizer = load_tokenizer(self.tokenizer_dir)
        weights = token_weights(tokenizer)
        number = self.first
        while True:
            yield make_batch(number, self.progress.value, tokenizer, weights, self.stages)
            number += 1


def make_batch(
    number: int,
    progress: float,
    tokenizer: PreTrainedTokenizerFast,
    weights: torch.Tensor,
    stages: tuple[Stage, ...] = FIRST_STAGES,
) -> Batch:
    """Build caption batch `number`, which depends on the arguments alone."""
    rng = np.random.default_rng([7, number])
    difficulty, size = draw_difficulty(progress, rng, stages)
    scenes = [make_scene(number * SEEDS_PER_BATCH + i, "train", difficulty) for i in range(size)]
    clips = [_clip(scene, frame_times(scene), rng) for scene in scenes]
    prompt = PROMPTS[0] if rng.random() < 0.7 else PROMPTS[int(rng.integers(len(PROMPTS)))]
    start = prompt_ids(tokenizer, difficulty.num_visual_tokens, prompt)
    end = token_id(tokenizer, "<|im_end|>")
    answers = [[*tokenizer(caption_of(scene)).input_ids, end] for scene in scenes]
    ids, weight = _pad(start, answers, token_id(tokenizer, "<|endoftext|>"), weights)
    opens_sentence = torch.roll(ids, 1, dims=1) == token_id(tokenizer, ".")
    weight[opens_sentence & (weight > 0)] = FACT_WEIGHT  # whether the list of objects goes on or ends is a fact, too
    frames, labels = (np.stack(part) for part in zip(*clips, strict=True))
    return Batch(frames, labels, ids, weight, 2 / difficulty.fps, make_look_batch(number, EXTRA_LOOKS))


class LookBatches(IterableDataset[Batch]):
    """Endless batches of single frame pairs with labels but no captions, to train the vision tower alone."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        number = self.first
        while True:
            yield make_look_batch(number)
            number += 1


LOOK_SHAPES = ((112, 112),) * 5 + ((168, 168), (224, 168), (224, 224))
LOOKS_PER_SCENE = 2


def make_look_batch(number: int, tokens: int = 768) -> Batch:
    """Build a batch of frame pairs with at least two objects each, and at most about `tokens` visual tokens in all."""
    rng = np.random.default_rng([8, number])
    width, height = LOOK_SHAPES[int(rng.integers(len(LOOK_SHAPES)))]
    difficulty = Difficulty(width, height, min_objects=2, max_events=0)
    clips = []
    for i in range(max(1, tokens * 784 // (width * height) // LOOKS_PER_SCENE)):
        scene = make_scene((1 << 32) + number * SEEDS_PER_BATCH + i, "train", difficulty)
        for grid in rng.permutation(difficulty.num_frames // 2)[:LOOKS_PER_SCENE]:
            clips.append(_clip(scene, frame_times(scene)[2 * grid : 2 * grid + 2], rng))
    frames, labels = (np.stack(part) for part in zip(*clips, strict=True))
    nothing = torch.zeros(0)
    return Batch(frames, labels, nothing, nothing, 1.0)


def _clip(scene: Scene, times_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames and labels at these instants; a share of the clips goes through the codec."""
    frames, cover = render(scene, times_s)
    labels = token_labels(scene, cover, times_s)
    if rng.random() < CODEC_SHARE:
        frames = through_codec(frames, scene.difficulty.fps, crf=int(rng.integers(16, 29)))
    return frames, labels


def _pad(
    start: list[int], answers: list[list[int]], pad: int, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, answers))
    ids = torch.full((len(answers), len(start) + longest), pad)
    weight = torch.zeros(ids.shape)
    for row, answer in enumerate(answers):
        tokens = torch.tensor(answer)
        ids[row, : len(start)] = torch.tensor(start)
        ids[row, len(start) : len(start) + len(answer)] = tokens
        weight[row, len(start) : len(start) + len(answer)] = weights[tokens]
    return ids, weight
