"""Labels of visual tokens against the scene they come from."""

import numpy as np

from demo.labels import FIELDS, LOOKS, token_labels
from demo.world import Difficulty, frame_times, make_scene, render
from demo.world.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene

NAMES = list(FIELDS)


def labelled(seed: int, difficulty: Difficulty) -> tuple[Scene, np.ndarray, np.ndarray]:
    scene = make_scene(seed, "train", difficulty)
    _, cover = render(scene)
    return scene, cover, token_labels(scene, cover, frame_times(scene))


def test_one_label_per_token_and_field() -> None:
    difficulty = Difficulty(168, 112, 8)
    for seed in range(20):
        _, _, labels = labelled(seed, difficulty)
        assert labels.shape == (4, 4, 6, len(FIELDS)) and labels[..., 0].size == difficulty.num_visual_tokens
        assert (labels.reshape(-1, len(FIELDS)).max(axis=0) < list(FIELDS.values())).all()


def test_tokens_without_an_object_tell_the_background_only() -> None:
    for seed in range(20):
        scene, cover, labels = labelled(seed, Difficulty())
        empty = cover.reshape(4, 2, 4, 28, 4, 28).max(axis=(1, 3, 5)) == 0
        assert (labels[empty][:, 2:] == 0).all()
        assert (labels[..., 0] == BACKGROUNDS.index(scene.background)).all()


def test_a_token_tells_the_looks_and_the_story_of_the_object_on_it() -> None:
    for seed in range(40):
        scene, _, labels = labelled(seed, Difficulty(max_objects=1, max_events=0))
        thing = scene.things[0]
        shown = labels[..., NAMES.index("colour")] > 0
        assert shown.any()
        assert set(labels[shown][:, NAMES.index("colour")]) == {COLOURS.index(thing.colour) + 1}
        assert set(labels[shown][:, NAMES.index("kind")]) == {SHAPES.index(thing.shape) + 1}
        assert set(labels[shown][:, NAMES.index("rank")]) == {1}


def test_a_change_of_colour_changes_the_look_but_not_the_story() -> None:
    scenes = (make_scene(seed, "train", Difficulty(max_objects=1)) for seed in range(200))
    scene = next(s for s in scenes if s.things[0].recolour and len(s.things) == 1 and s.things[0].end > 1)
    _, cover = render(scene)
    labels = token_labels(scene, cover, frame_times(scene))
    first, last = (set(labels[t][labels[t, ..., 3] > 0][:, NAMES.index("colour")]) for t in (0, -1))
    assert first == {COLOURS.index(scene.things[0].colour) + 1}
    assert last == {COLOURS.index(scene.things[0].recolour[1]) + 1}
    assert len(set(labels[labels[..., 3] > 0][:, NAMES.index("first_colour")])) == 1
    assert len(LOOKS) < len(FIELDS)
