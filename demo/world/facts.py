"""Checkable facts of a scene, shared by the caption grammar and the score."""

from dataclasses import dataclass

from demo.world.scenes import Scene, Thing


@dataclass(frozen=True)
class ThingFacts:
    """An object as a caption describes it: its looks, where it starts, and how it moves."""

    size: str
    colour: str
    shape: str
    row: str
    column: str
    motion: str | None = None


@dataclass(frozen=True)
class EventFacts:
    """An event: when, its kind, the object, and by kind the other object, the new colour or the newcomer."""

    when: str
    kind: str
    colour: str
    shape: str
    other_colour: str | None = None
    other_shape: str | None = None
    newcomer: ThingFacts | None = None


@dataclass(frozen=True)
class Facts:
    """All checkable facts of a caption, in the caption's order."""

    count: int
    background: str
    texture: str
    things: tuple[ThingFacts, ...]
    events: tuple[EventFacts, ...]
    final_count: int


def facts_of(scene: Scene) -> Facts:
    """Return the facts that a correct caption of the scene states."""
    present = [thing for thing in scene.things if thing.start == 0.0]
    events = []
    for event in scene.events:
        subject = scene.things[event.subject]
        other = scene.things[event.other] if event.other is not None else None
        events.append(
            EventFacts(
                when=event.when,
                kind=event.kind,
                colour=subject.colour,
                shape=subject.shape,
                other_colour=other.colour if other else event.colour,
                other_shape=other.shape if other else None,
                newcomer=_describe(subject, with_motion=False) if event.kind == "appear" else None,
            )
        )
    final_count = sum(thing.end > 1.0 for thing in scene.things)
    things = tuple(_describe(thing) for thing in present)
    return Facts(len(present), scene.background, scene.texture, things, tuple(events), final_count)


def _describe(thing: Thing, with_motion: bool = True) -> ThingFacts:
    row, column = thing.place
    return ThingFacts(thing.size, thing.colour, thing.shape, row, column, thing.motion if with_motion else None)
