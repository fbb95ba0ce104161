"""Decides whether one drafter is better than another: relative gains in tau with bootstrap intervals, by bucket.

Drafters are paired by window, since windows differ more than drafters do.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow, bootstrap_interval

LEAST_WINDOWS = 6  # in the longest bucket: an interval over fewer says nothing


@dataclass(frozen=True)
class Gain:
    """The relative gain in tau on one bucket of visual length, all draft shapes together (0.05: 5 % higher).

    `low` and `high` bound its bootstrap 95 % interval over windows.
    """

    bucket: str
    windows: int
    gain: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.gain:+.1%} [{self.low:+.1%}, {self.high:+.1%}] on {self.windows} windows"


def gains(candidate: Sequence[AcceptanceRow], current: Sequence[AcceptanceRow]) -> list[Gain]:
    """Gains of `candidate` over `current`, one per bucket, shortest first.

    Raises ConfigError unless both were measured on the same windows and shapes.
    """
    ours, theirs = _by_bucket(candidate), _by_bucket(current)
    if ours.keys() != theirs.keys():
        raise ConfigError(_unlike(f"visual lengths {', '.join(ours)} and {', '.join(theirs)}"))
    return [_gain(bucket, ours[bucket], theirs[bucket]) for bucket in sorted(ours, key=int)]


def is_better(found: Sequence[Gain], margin: float) -> bool:
    """Whether the gain exceeds `margin` beyond chance on the longest bucket, which has at least LEAST_WINDOWS, and no
    bucket shows a loss beyond chance."""
    longest = found[-1]
    return longest.windows >= LEAST_WINDOWS and longest.low > margin and all(gain.high >= 0 for gain in found)


def _by_bucket(rows: Sequence[AcceptanceRow]) -> dict[str, dict[str, np.ndarray]]:
    """Tokens and rounds [windows, 2] by bucket, then by draft shape and temperature."""
    counts: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for row in rows:
        counts[row.bucket][f"{row.draft} at T={row.temperature:g}"] = np.array(row.counts)
    return counts


def _gain(bucket: str, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Gain:
    if ours.keys() != theirs.keys():
        raise ConfigError(_unlike(f"shapes {', '.join(ours)} and {', '.join(theirs)}"))
    for shape in ours:
        # Drafters change no caption: on the same windows all write the same tokens.
        if not np.array_equal(ours[shape][:, 0], theirs[shape][:, 0]):
            raise ConfigError(_unlike(f"different windows of {bucket} visual tokens"))
    # The ratio of the taus: the tokens are the same, so that only rounds remain.
    our_rounds, their_rounds = (np.sum([counts[:, 1] for counts in side.values()], axis=0) for side in (ours, theirs))
    low, high = bootstrap_interval(their_rounds, our_rounds)
    ratio = their_rounds.sum() / max(1, our_rounds.sum())
    return Gain(bucket, len(our_rounds), float(ratio - 1), low - 1, high - 1)


def _unlike(what: str) -> str:
    return (
        f"the two were measured on {what}; measure both in one call of jobs/evaluate_draft.py, and put that on record "
        "with jobs/drafters.py measured"
    )
