"""The demo world: scenes follow from seeds, captions state their facts, and videos show them."""

from dataclasses import replace

import av
import numpy as np
import pytest

from demo.world import (
    MAIN_FACTS,
    SPLITS,
    Difficulty,
    caption_of,
    chance,
    facts_of,
    frame_times,
    make_scene,
    mean_scores,
    parse_caption,
    read_mp4,
    render,
    score,
    through_codec,
    write_scene,
)
from demo.world.render import RGB
from demo.world.scenes import EVENTS, MOTIONS, SIZES, positions

SEEDS = range(60)


def test_a_scene_is_a_function_of_split_seed_and_difficulty() -> None:
    for split in SPLITS:
        assert [make_scene(seed, split) for seed in SEEDS] == [make_scene(seed, split) for seed in SEEDS]


def test_splits_share_no_scene() -> None:
    looks = [{(s.background, s.texture, s.things) for s in (make_scene(i, split) for i in SEEDS)} for split in SPLITS]
    assert not looks[0] & looks[1] and not looks[0] & looks[2] and not looks[1] & looks[2]


def test_unknown_split_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'test'.*train, validation, heldout"):
        make_scene(0, "test")


def test_the_world_is_varied() -> None:
    scenes = [make_scene(seed) for seed in range(300)]
    assert {event.kind for scene in scenes for event in scene.events} == set(EVENTS)
    assert {thing.motion for scene in scenes for thing in scene.things} == set(MOTIONS)
    assert {len(facts_of(scene).things) for scene in scenes} == {1, 2, 3, 4}


def test_difficulty_bounds_what_goes_on() -> None:
    plain = Difficulty(max_objects=1, max_events=0)
    assert all(len(make_scene(seed, "train", plain).things) == 1 for seed in SEEDS)
    assert not any(make_scene(seed, "train", plain).events for seed in SEEDS)
    assert Difficulty(112, 112, 8).num_visual_tokens == 64
    assert Difficulty(224, 224, 784).num_visual_tokens > 25_000


def test_every_wording_parses_to_the_facts_it_was_written_from() -> None:
    for seed in SEEDS:
        scene = make_scene(seed)
        for phrasing in range(4):
            assert parse_caption(caption_of(scene, phrasing)) == facts_of(scene)


def test_own_caption_scores_one_and_another_scenes_scores_near_guessing() -> None:
    scenes = [make_scene(seed) for seed in range(200)]
    captions = [caption_of(scene) for scene in scenes]
    own = mean_scores(score(text, scene) for text, scene in zip(captions, scenes, strict=True))
    assert set(own.values()) == {1.0}
    others = chance(captions, scenes)
    # Guesses from 9 colours, 7 shapes, 9 places and 10 motions; objects missing from a caption count as wrong.
    assert others["colour"] < 0.2 and others["shape"] < 0.25 and others["place"] < 0.25 and others["direction"] < 0.25
    assert others["mean"] < 0.3


def test_one_wrong_word_costs_only_its_own_fact() -> None:
    scene = make_scene(3, "validation", Difficulty(max_objects=1, max_events=0))
    colour = scene.things[0].colour
    marks = score(caption_of(scene).replace(colour, "red" if colour != "red" else "blue"), scene)
    assert marks.pop("colour") == 0.0 and set(marks.values()) == {1.0}


def test_no_caption_scores_nothing() -> None:
    assert all(score("", make_scene(seed))[fact] == 0.0 for seed in range(5) for fact in MAIN_FACTS)


def test_things_are_told_from_left_to_right() -> None:
    for seed in SEEDS:
        scene = make_scene(seed)
        starts = [thing.x for thing in scene.things if thing.start == 0.0]
        assert starts == sorted(starts)


def test_pixels_show_what_the_scene_says() -> None:
    """A still, plain object's centre has its colour (a ring has a hole there), and moving objects move that way."""
    for seed in range(150):
        scene = make_scene(seed, "train", Difficulty(max_objects=1, max_events=0))
        thing = scene.things[0]
        frames, cover = render(scene)
        T, H, W = cover.shape
        x, y = positions(thing, frame_times(scene) / scene.duration_s, T)
        if thing.shape != "ring" and 0.1 < x[0] < 0.9 and 0.1 < y[0] < 0.9:
            assert np.abs(frames[0, int(y[0] * H), int(x[0] * W)] - np.array(RGB[thing.colour])).max() <= 2
        columns = [np.nonzero(cover[t].any(axis=0))[0].mean() for t in (0, 1)]
        if thing.motion in ("right", "left"):
            assert (columns[1] > columns[0]) == (thing.motion == "right")


def test_events_happen_on_screen_when_they_are_told() -> None:
    for seed in range(120):
        scene = make_scene(seed, "train", Difficulty(num_frames=32))
        _, cover = render(scene)
        for event in scene.events:
            frame = int(np.ceil(event.time * 32))
            seen = [(cover[t] == event.subject + 1).any() for t in (frame - 1, frame)]
            if event.kind == "appear":
                assert seen == [False, True]
            if event.kind == "vanish":
                assert not seen[1]
            assert (0.1 < event.time < 0.35, 0.4 < event.time < 0.62, event.time > 0.7) == tuple(
                event.when == name for name in ("early", "middle", "late")
            )


def test_size_is_relative_to_the_shorter_side() -> None:
    scene = make_scene(5, "train", Difficulty(max_objects=1, max_events=0))
    thing = replace(scene.things[0], shape="circle", size="large", motion="still", x=0.5, y=0.5)
    for width, height in ((112, 112), (280, 224)):
        level = Difficulty(width, height, max_objects=1)
        _, cover = render(replace(scene, things=(thing,), difficulty=level))
        across = cover[0].any(axis=0).sum()
        assert across == pytest.approx(0.95 * SIZES["large"] * height, abs=2)  # a pixel at each edge


def test_mp4_round_trip(tmp_path) -> None:
    scene = make_scene(11, "heldout", Difficulty(224, 168, 8, fps=2.0))
    path = tmp_path / "clip.mp4"
    write_scene(path, scene, oversampling=3)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 6
        assert float(stream.duration * stream.time_base) == pytest.approx(scene.duration_s, abs=0.01)
    decoded = read_mp4(path)
    assert decoded.shape == (24, 168, 224, 3)
    frames, cover = render(scene)
    for index in range(len(scene.things)):
        inside = cover[0] == index + 1
        if inside.sum() > 200:  # colours survive up to chroma subsampling at the edges
            assert np.abs(decoded[0][inside].mean(axis=0) - frames[0][inside].mean(axis=0)).max() < 16
    assert np.abs(decoded[::3].astype(int) - frames).mean() < 8


def test_compression_leaves_the_picture_in_place() -> None:
    frames, _ = render(make_scene(2))
    assert through_codec(frames, 2.0, crf=23).shape == frames.shape
    assert np.abs(through_codec(frames, 2.0, crf=23).astype(int) - frames).mean() < 8
