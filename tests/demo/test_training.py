"""The demo target's training is resumable, and Muon orthogonalises updates. Learning itself is not tested."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from demo.batches import make_batch, make_look_batch, token_weights
from demo.curriculum import CLIP_SHAPES, FIRST_STAGES, LATER_STAGES, draw_difficulty
from demo.muon import Muon, orthogonalise
from demo.tokenizer import train_tokenizer
from demo.train_target import Trainer, export
from demo.world import Difficulty


def test_orthogonalise_evens_out_singular_values() -> None:
    torch.manual_seed(0)
    for shape in ((2, 128, 32), (2, 32, 128)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        # The quintic's coefficients are chosen for speed: they leave the values within this band, not at one.
        assert values.min() > 0.4 and values.max() < 1.3


def test_muon_goes_downhill() -> None:
    torch.manual_seed(0)
    goal, weight = torch.randn(32, 16), nn.Parameter(torch.zeros(32, 16))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(60):
        loss = (weight - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_clip_shapes_have_about_the_visual_length_that_names_them() -> None:
    for length, shapes in CLIP_SHAPES.items():
        for width, height, frames in shapes:
            tokens = Difficulty(width, height, frames).num_visual_tokens
            assert tokens == pytest.approx(length, rel=0.05) and not frames % 2


def test_every_moment_of_the_training_has_a_stage() -> None:
    for stages in (FIRST_STAGES, LATER_STAGES):
        for progress in (0.0, *(stage.until for stage in stages[:-1]), 1.0):
            difficulty, size = draw_difficulty(progress, np.random.default_rng(0), stages)
            assert size >= 1 and difficulty.num_visual_tokens >= 64
        assert all(sum(stage.lengths.values()) == pytest.approx(1.0) for stage in stages)


def test_batches_are_functions_of_their_number() -> None:
    tokenizer = train_tokenizer(num_captions=100)
    weights = token_weights(tokenizer)
    one, again, other = (make_batch(number, 0.1, tokenizer, weights) for number in (3, 3, 4))
    assert (one.frames == again.frames).all() and torch.equal(one.input_ids, again.input_ids)
    assert one.frames.shape != other.frames.shape or (one.frames != other.frames).any()
    assert (one.weights > 0).any(dim=1).all()
    assert make_look_batch(0).labels.shape[0] == make_look_batch(0).frames.shape[0]


def test_a_run_goes_on_where_it_was_stopped_and_a_phase_from_exported_weights(tmp_path: Path) -> None:
    train_tokenizer(num_captions=100).save_pretrained(tmp_path / "run" / "tokenizer")
    first = Trainer(tmp_path / "run", hours=1.0, vision_minutes=1.0, init=None)
    with torch.no_grad():
        first.model.lm_head.weight.fill_(0.5)
    first.elapsed_s, first.step = 70.0, 12
    first._save()
    second = Trainer(tmp_path / "run", hours=1.0, vision_minutes=1.0, init=None)
    assert (second.elapsed_s, second.step) == (70.0, 12)
    assert (second.model.lm_head.weight == 0.5).all()
    export(second, tmp_path / "hub")
    phase = Trainer(tmp_path / "phase", hours=1.0, vision_minutes=0.0, init=tmp_path / "hub")
    assert (phase.elapsed_s, phase.step) == (0.0, 0)
    assert (phase.model.lm_head.weight == 0.5).all() and phase.model.lm_head.weight.dtype == torch.float32
