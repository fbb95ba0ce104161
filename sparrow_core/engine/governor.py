"""The governor: chooses the draft shape whose expected tokens per second are highest for the current load.

Pure arithmetic over the acceptance seen so far and over costs, which are measured before a drafter's first request and
corrected by the seconds that rounds then take. It never changes a caption, only its speed. Where no draft pays, it
chooses none. From time to time it tries a shape again that it had given up.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log

from sparrow_core.config import DraftConfig

NO_DRAFT = DraftConfig(depth=1, width=1, total=2)  # stands for "no draft": the drafter is not asked
CANDIDATES = (
    NO_DRAFT,
    *(DraftConfig.chain(depth) for depth in (2, 3, 4, 5, 6, 7)),  # 8 rows at most, so that none is padding
    *(DraftConfig(depth, 4, total) for depth, total in ((4, 12), (6, 16), (8, 16), (8, 25), (8, 32))),
)
MAX_TOTAL = max(shape.total for shape in CANDIDATES)
PRIOR_ACCEPTANCE = 0.85  # of each further token; high, so that every shape is tried before it is judged
PRIOR_ROUNDS = 3
MEMORY_ROUNDS = 200  # older rounds fade, as a corpus may change
LOOK_AGAIN_ROUNDS = 64


@dataclass(frozen=True)
class Costs:
    """Measured seconds.

    `pass_s` maps a pass's number of rows to its seconds after an empty context, `slot_s` a sequence's number of rows to
    the seconds that each slot of its context adds, and `draft_s` a shape to the seconds of one sequence's draft.
    """

    pass_s: Mapping[int, float]
    slot_s: Mapping[int, float]
    draft_s: Mapping[DraftConfig, float]

    def round_s(self, shape: DraftConfig, contexts: Sequence[int]) -> float:
        """Expected seconds of a round in which sequences of these lengths (slots) all draft in `shape`."""
        rows = 1 if shape == NO_DRAFT else shape.total
        per_slot = _interpolated(self.slot_s, rows)
        verification = _interpolated(self.pass_s, rows * len(contexts)) + per_slot * sum(contexts)
        return verification + len(contexts) * self.draft_s[shape]


def _interpolated(table: Mapping[int, float], x: int) -> float:
    """Linear interpolation between measured points; beyond them, extrapolation by the nearest two."""
    points = sorted(table)
    right = min(max(bisect_left(points, x), 1), len(points) - 1)
    low, high = points[right - 1], points[right]
    return table[low] + (table[high] - table[low]) * (x - low) / (high - low)


@dataclass
class _Mean:
    """Running mean over rounds in which older rounds fade. It starts as if `rounds` rounds had given `value`."""

    value: float
    rounds: float = PRIOR_ROUNDS

    def add(self, value: float) -> None:
        self.rounds = min(self.rounds + 1, MEMORY_ROUNDS)
        self.value += (value - self.value) / self.rounds


def _prior_tokens(shape: DraftConfig) -> _Mean:
    if shape == NO_DRAFT:
        return _Mean(1.0)
    # A tree offers several tokens at each position: if the first is wrong, another is right half of the time.
    acceptance = PRIOR_ACCEPTANCE if shape.width == 1 else 1 - (1 - PRIOR_ACCEPTANCE) / 2
    return _Mean(sum(acceptance**depth for depth in range(shape.depth + 1)))


@dataclass
class Governor:
    """Chooses a shape for each round and learns from the tokens and seconds of past rounds."""

    costs: Costs
    candidates: Sequence[DraftConfig] = CANDIDATES
    _tokens: dict[DraftConfig, _Mean] = field(default_factory=dict)
    _log_slowness: dict[tuple[DraftConfig, int], _Mean] = field(default_factory=lambda: defaultdict(lambda: _Mean(0.0)))
    _rounds: int = 0

    def __post_init__(self) -> None:
        self._tokens = {shape: _prior_tokens(shape) for shape in self.candidates}

    def choose(self, contexts: Sequence[int]) -> DraftConfig:
        """The shape for a round of sequences of these lengths (slots; at least one sequence)."""
        expected = {shape: self._tokens[shape].value / self.costs.round_s(shape, contexts) for shape in self.candidates}
        corrected = {shape: rate / exp(self._slowness(shape, contexts).value) for shape, rate in expected.items()}
        best, second = sorted(self.candidates, key=lambda shape: -corrected[shape])[:2]
        self._rounds += 1
        if self._rounds % LOOK_AGAIN_ROUNDS:
            return best
        # A shape may have been slow only because the machine was busy: judge it by the costs measured at the start.
        hopeful = max(self.candidates, key=lambda shape: expected[shape])
        return hopeful if hopeful != best else second

    def learn_tokens(self, shape: DraftConfig, num_tokens: int) -> None:
        """Record the number of tokens that one sequence got in a round of this shape."""
        self._tokens[shape].add(num_tokens)

    def learn_time(self, shape: DraftConfig, contexts: Sequence[int], seconds: float) -> None:
        """Record the seconds of a round in which sequences of these lengths (slots) all drafted in `shape`."""
        self._slowness(shape, contexts).add(log(seconds / self.costs.round_s(shape, contexts)))

    def _slowness(self, shape: DraftConfig, contexts: Sequence[int]) -> _Mean:
        """Mean of log(measured / expected seconds) of a round, kept by order of magnitude of the summed contexts."""
        return self._log_slowness[shape, sum(contexts).bit_length()]
