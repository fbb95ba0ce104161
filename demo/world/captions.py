"""The grammar of captions: writes facts in one of several phrasings, and parses a caption back into facts.

One table of templates serves both directions, so that a caption always parses to the facts it was written from.
Phrasings are drawn with unequal weights, so that a model that has learnt the grammar has a clear first choice.
"""

import re

import numpy as np

from demo.world.facts import EventFacts, Facts, ThingFacts
from demo.world.scenes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

WEIGHTS = (0.55, 0.27, 0.18)  # of the first, second, third phrasing; renormalised if there are fewer

Words = dict[str, tuple[str, ...]]


def _same(names: tuple[str, ...]) -> Words:
    return {name: (name,) for name in names}


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
SLOTS: dict[str, Words] = {
    "count": {str(n): (word,) for n, word in enumerate(NUMBERS)},
    "background": _same(BACKGROUNDS),
    "texture": _same(TEXTURES),
    "size": {"small": ("small", "little"), "medium": ("medium", "midsize"), "large": ("large", "big")},
    "colour": _same(COLOURS),
    "shape": _same(SHAPES),
    "row": {"top": ("top", "upper"), "middle": ("middle",), "bottom": ("bottom", "lower")},
    "column": _same(("left", "center", "right")),
    "motion": {
        "still": ("stays still", "does not move", "rests in place"),
        "right": ("moves right", "drifts to the right", "slides rightward"),
        "left": ("moves left", "drifts to the left", "slides leftward"),
        "up": ("moves up", "rises steadily", "climbs upward"),
        "down": ("moves down", "sinks steadily", "falls downward"),
        "sideways": ("bounces from side to side", "shuttles sideways", "swings across and back"),
        "vertical": ("bounces up and down", "hops vertically", "goes up and down"),
        "spin": ("spins in place", "rotates on the spot", "keeps turning"),
        "grow": ("grows larger", "swells", "keeps growing"),
        "shrink": ("shrinks", "gets smaller", "keeps shrinking"),
    },
    "when": {
        "early": ("Early on", "Soon"),
        "middle": ("Midway", "Halfway through"),
        "late": ("Near the end", "Late in the clip"),
    },
}
THING = "{size} {colour} {shape}"
OPENINGS = (
    "The video shows {count} shapes on a {texture} {background} background.",
    "On a {texture} {background} background there are {count} shapes.",
    "We see {count} shapes over a {texture} {background} backdrop.",
)
FIRST_LEADS = ("From the left, ", "First, ", "Leftmost, ")
NEXT_LEADS = ("Next, ", "Then ", "Further right, ")
THING_TEMPLATES = (
    f"a {THING} starts at the {{row}} {{column}} and {{motion}}.",
    f"a {THING} in the {{row}} {{column}} {{motion}}.",
    f"at the {{row}} {{column}}, a {THING} {{motion}}.",
)
EVENT_TEMPLATES: Words = {
    "appear": (
        f"{{when}}, a {THING} appears at the {{row}} {{column}}.",
        f"{{when}}, a {THING} pops up in the {{row}} {{column}}.",
    ),
    "vanish": ("{when}, the {colour} {shape} vanishes.", "{when}, the {colour} {shape} disappears."),
    "recolour": (
        "{when}, the {colour} {shape} turns {other_colour}.",
        "{when}, the {colour} {shape} changes to {other_colour}.",
    ),
    "collide": (
        "{when}, the {colour} {shape} bumps into the {other_colour} {other_shape}.",
        "{when}, the {colour} {shape} collides with the {other_colour} {other_shape}.",
    ),
    "overtake": (
        "{when}, the {colour} {shape} overtakes the {other_colour} {other_shape}.",
        "{when}, the {colour} {shape} passes the {other_colour} {other_shape}.",
    ),
}
QUIET = ("Nothing else happens.", "There is no other event.")
CLOSINGS = ("At the end {count} shapes remain.", "When it ends, {count} shapes are in view.")


def write_caption(facts: Facts, rng: np.random.Generator) -> str:
    """Write the facts as a caption; `rng` chooses only the phrasing."""
    opening: dict[str, str | None] = {
        "count": str(facts.count),
        "background": facts.background,
        "texture": facts.texture,
    }
    sentences = [_fill(_pick(rng, OPENINGS), opening, rng)]
    for index, thing in enumerate(facts.things):
        lead = _pick(rng, NEXT_LEADS if index else FIRST_LEADS)
        sentences.append(lead + _fill(_pick(rng, THING_TEMPLATES), vars(thing), rng))
    sentences += [_fill(_pick(rng, EVENT_TEMPLATES[event.kind]), _event_values(event), rng) for event in facts.events]
    if not facts.events:
        sentences.append(_pick(rng, QUIET))
    sentences.append(_fill(_pick(rng, CLOSINGS), {"count": str(facts.final_count)}, rng))
    return " ".join(_singular(sentence) for sentence in sentences)


def parse_caption(text: str) -> Facts:
    """Parse the facts out of a caption. Sentences that the grammar does not know are skipped; missing facts are "" or
    -1."""
    opening: dict[str, str] = {}
    final_count = -1
    things: list[ThingFacts] = []
    events: list[EventFacts] = []
    for sentence in re.findall(r"[^.]+\.", text):
        kind, values = _match(sentence.strip())
        if kind == "opening":
            opening = values
        elif kind == "closing":
            final_count = int(values["count"])
        elif kind == "thing":
            things.append(ThingFacts(**values))
        elif kind in EVENT_TEMPLATES:
            events.append(_read_event(kind, values))
    return Facts(
        count=int(opening.get("count", -1)),
        background=opening.get("background", ""),
        texture=opening.get("texture", ""),
        things=tuple(things),
        events=tuple(events),
        final_count=final_count,
    )


def fact_words() -> frozenset[str]:
    """Lower-case words that carry facts, as opposed to the fixed words of the templates."""
    phrases = [phrase for slot in SLOTS.values() for choices in slot.values() for phrase in choices]
    words = {word for phrase in phrases for word in phrase.split()}
    verbs = {"appears", "pops", "vanishes", "disappears", "turns", "changes"}
    verbs |= {"bumps", "collides", "overtakes", "passes"}
    glue = {"to", "the", "in", "on", "of", "and", "from", "keeps", "steadily", "place", "spot", "clip", "does", "not"}
    return frozenset({word.lower() for word in words | verbs | {"nothing", "no", "next", "then", "further"}} - glue)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    draw = rng.random() * sum(WEIGHTS[: len(options)])
    return options[int(np.searchsorted(np.cumsum(WEIGHTS[: len(options)])[:-1], draw, side="right"))]


def _fill(template: str, values: dict[str, str | None], rng: np.random.Generator) -> str:
    def word(match: re.Match[str]) -> str:
        slot = match[1]
        value = values[slot]
        assert value is not None
        return _pick(rng, SLOTS[slot.removeprefix("other_")][value])

    return re.sub(r"\{(\w+)\}", word, template)


def _singular(sentence: str) -> str:
    for plural, single in (("are one shapes", "is one shape"), ("one shapes are", "one shape is")):
        sentence = sentence.replace(plural, single)
    return sentence.replace("one shapes remain", "one shape remains").replace("one shapes", "one shape")


def _event_values(event: EventFacts) -> dict[str, str | None]:
    return {**(vars(event.newcomer) if event.newcomer else {}), **{k: v for k, v in vars(event).items() if v}}


def _read_event(kind: str, values: dict[str, str]) -> EventFacts:
    newcomer = None
    if kind == "appear":
        newcomer = ThingFacts(**{k: v for k, v in values.items() if k != "when"})
    names = ("when", "colour", "shape", "other_colour", "other_shape")
    return EventFacts(kind=kind, newcomer=newcomer, **{k: values[k] for k in names if k in values})


def _pattern(template: str) -> re.Pattern[str]:
    def slot(match: re.Match[str]) -> str:
        phrases = SLOTS[match[1].removeprefix("other_")].values()
        return f"(?P<{match[1]}>{'|'.join(sorted((p for group in phrases for p in group), key=len, reverse=True))})"

    pattern = re.sub(r"\{(\w+)\}", slot, template.replace(".", r"\."))
    return re.compile(pattern.replace("shapes", "shapes?").replace("remain", "remains?").replace("are", "(?:are|is)"))


def _compile() -> list[tuple[str, re.Pattern[str]]]:
    table = [("opening", _pattern(t)) for t in OPENINGS] + [("closing", _pattern(t)) for t in CLOSINGS]
    leads = f"(?:{'|'.join(FIRST_LEADS + NEXT_LEADS)})"
    table += [("thing", re.compile(leads + _pattern(t).pattern)) for t in THING_TEMPLATES]
    return table + [(kind, _pattern(t)) for kind, templates in EVENT_TEMPLATES.items() for t in templates]


def _match(sentence: str) -> tuple[str, dict[str, str]]:
    for kind, pattern in PATTERNS:
        if found := pattern.fullmatch(sentence):
            said = found.groupdict().items()
            return kind, {slot: _MEANINGS[slot.removeprefix("other_")][word] for slot, word in said}
    return "", {}


_MEANINGS = {
    slot: {phrase: name for name, phrases in words.items() for phrase in phrases} for slot, words in SLOTS.items()
}
PATTERNS = _compile()
