"""Scores captions fact by fact, and estimates the chance level with captions of other scenes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from demo.world.captions import parse_caption
from demo.world.facts import EventFacts, Facts, ThingFacts, facts_of
from demo.world.scenes import Scene

MAIN_FACTS = ("count", "colour", "shape", "size", "place", "direction")


def score(caption: str, scene: Scene) -> dict[str, float]:
    """Accuracy in [0, 1] by kind of fact, over the facts that the scene has.

    Objects are compared in order from left to right, events in order of time. All facts of an object or event that is
    missing from the caption are wrong.
    """
    return {name: sum(marks) / len(marks) for name, marks in _marks(parse_caption(caption), facts_of(scene)).items()}


def mean_scores(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean of each kind of fact over the scenes that have it; `mean` is the mean over MAIN_FACTS."""
    collected: dict[str, list[float]] = defaultdict(list)
    for one in scores:
        for name, value in one.items():
            collected[name].append(value)
    means = {name: sum(values) / len(values) for name, values in collected.items()}
    means["mean"] = sum(means.get(name, 0.0) for name in MAIN_FACTS) / len(MAIN_FACTS)
    return means


def chance(captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """Mean scores of captions compared with the next scene in the list: what knowing the world alone achieves."""
    return mean_scores(score(text, scenes[(i + 1) % len(scenes)]) for i, text in enumerate(captions))


def _marks(said: Facts, true: Facts) -> dict[str, list[bool]]:
    marks: dict[str, list[bool]] = defaultdict(list)
    for name in ("count", "background", "texture", "final_count"):
        marks[name].append(getattr(said, name) == getattr(true, name))
    for index, thing in enumerate(true.things):
        _mark_thing(marks, said.things[index] if index < len(said.things) else None, thing)
    for index, event in enumerate(true.events):
        _mark_event(marks, said.events[index] if index < len(said.events) else None, event)
    if not true.events:
        marks["event_kind"].append(not said.events)
    return marks


def _mark_thing(marks: dict[str, list[bool]], said: ThingFacts | None, true: ThingFacts) -> None:
    for name in ("colour", "shape", "size"):
        marks[name].append(getattr(said, name, None) == getattr(true, name))
    marks["place"].append(said is not None and (said.row, said.column) == (true.row, true.column))
    marks["direction"].append(said is not None and said.motion == true.motion)


def _mark_event(marks: dict[str, list[bool]], said: EventFacts | None, true: EventFacts) -> None:
    marks["event_kind"].append(said is not None and said.kind == true.kind)
    marks["event_subject"].append(said is not None and (said.colour, said.shape) == (true.colour, true.shape))
    marks["event_time"].append(said is not None and said.when == true.when)
