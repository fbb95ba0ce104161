"""How much to draft, now: the shape whose expected tokens per second are highest for this load.

Pure arithmetic over costs measured when the engine starts and acceptance seen so far; it never changes a caption, only
how fast it comes. Where no draft pays it proposes none, and looks again from time to time.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparrow_core.config import DraftConfig

NOTHING = DraftConfig(depth=1, width=1, total=2)  # stands for "no draft": the drafter is not asked
CANDIDATES = (
    NOTHING,
    *(DraftConfig.chain(depth) for depth in (2, 3, 4, 5, 6, 8)),
    *(DraftConfig(depth, 4, total) for depth, total in ((4, 12), (6, 16), (8, 16), (8, 25), (8, 32))),
)
MAX_TOTAL = max(shape.total for shape in CANDIDATES)
PRIOR_ACCEPTANCE = 0.85  # of each further token: hopeful, so that every shape is tried before it is judged
PRIOR_ROUNDS = 3
MEMORY_ROUNDS = 200  # older rounds fade, as a corpus may change
LOOK_AGAIN_ROUNDS = 64


@dataclass(frozen=True)
class Costs:
    """Seconds, measured: of a pass by its number of rows over an empty context, of each further context slot by the
    rows that read it, and of drafting one sequence by shape."""

    pass_s: Mapping[int, float]
    slot_s: Mapping[int, float]
    draft_s: Mapping[DraftConfig, float]

    def round_s(self, shape: DraftConfig, contexts: Sequence[int]) -> float:
        """One round of sequences of these lengths, all drafting in `shape`."""
        rows = 1 if shape == NOTHING else shape.total
        per_slot = _interpolated(self.slot_s, rows)
        verification = _interpolated(self.pass_s, rows * len(contexts)) + per_slot * sum(contexts)
        return verification + len(contexts) * self.draft_s[shape]


def _interpolated(table: Mapping[int, float], x: int) -> float:
    """Linear between the measured points, and beyond the last two along their line."""
    points = sorted(table)
    right = min(max(bisect_left(points, x), 1), len(points) - 1)
    low, high = points[right - 1], points[right]
    return table[low] + (table[high] - table[low]) * (x - low) / (high - low)


@dataclass
class _Record:
    """Rounds of one shape and the tokens that they brought, fading."""

    rounds: float
    tokens: float

    def add(self, tokens: int) -> None:
        fade = min(1.0, MEMORY_ROUNDS / (self.rounds + 1))
        self.rounds, self.tokens = self.rounds * fade + 1, self.tokens * fade + tokens


def _prior(shape: DraftConfig) -> _Record:
    if shape == NOTHING:
        return _Record(PRIOR_ROUNDS, PRIOR_ROUNDS)
    # A tree offers several tokens at each place: what is missed at first is found half of the time.
    acceptance = PRIOR_ACCEPTANCE if shape.width == 1 else 1 - (1 - PRIOR_ACCEPTANCE) / 2
    expected = sum(acceptance**depth for depth in range(shape.depth + 1))
    return _Record(PRIOR_ROUNDS, PRIOR_ROUNDS * expected)


@dataclass
class Governor:
    """Chooses a shape for each round and learns from what came of it."""

    costs: Costs
    candidates: Sequence[DraftConfig] = CANDIDATES
    _records: dict[DraftConfig, _Record] = field(default_factory=dict)
    _idle_rounds: int = 0

    def __post_init__(self) -> None:
        self._records = {shape: _prior(shape) for shape in self.candidates}

    def choose(self, contexts: Sequence[int]) -> DraftConfig:
        """The shape for a round of sequences of these lengths (slots each, at least one)."""
        ranked = sorted(self.candidates, key=lambda shape: -self._rate(shape, contexts))
        if ranked[0] != NOTHING:
            self._idle_rounds = 0
            return ranked[0]
        self._idle_rounds += 1
        return ranked[1] if self._idle_rounds % LOOK_AGAIN_ROUNDS == 0 else NOTHING

    def learn(self, shape: DraftConfig, num_tokens: int) -> None:
        """Tell how many tokens a sequence got in a round of this shape."""
        self._records[shape].add(num_tokens)

    def _rate(self, shape: DraftConfig, contexts: Sequence[int]) -> float:
        record = self._records[shape]
        return record.tokens / record.rounds * len(contexts) / self.costs.round_s(shape, contexts)
