"""Is one drafter better than another? Paired by window, since windows differ more than drafters do."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import NUM_RESAMPLES, AcceptanceRow


@dataclass(frozen=True)
class Gain:
    """By how much tau is higher, relatively, on one bucket of visual length (all draft shapes together), and the
    bootstrap 95 % interval of that over windows."""

    bucket: str
    windows: int
    gain: float
    low: float
    high: float


def gains(candidate: Sequence[AcceptanceRow], current: Sequence[AcceptanceRow]) -> list[Gain]:
    """One per bucket, shortest first. Raises ConfigError unless both were measured on the same windows and shapes."""
    ours, theirs = _by_bucket(candidate), _by_bucket(current)
    if ours.keys() != theirs.keys():
        raise ConfigError(_unlike(f"visual lengths {', '.join(ours)} and {', '.join(theirs)}"))
    return [_gain(bucket, ours[bucket], theirs[bucket]) for bucket in sorted(ours, key=int)]


def is_better(found: Sequence[Gain], margin: float) -> bool:
    """Better by more than `margin` and chance on the longest bucket, and on no bucket worse by more than chance."""
    return found[-1].low > margin and all(gain.high >= 0 for gain in found)


def _by_bucket(rows: Sequence[AcceptanceRow]) -> dict[str, dict[str, np.ndarray]]:
    """Tokens and rounds [windows, 2] by bucket and draft shape."""
    counts: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for row in rows:
        counts[row.bucket][row.draft] = np.array(row.counts)
    return counts


def _gain(bucket: str, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Gain:
    if ours.keys() != theirs.keys():
        raise ConfigError(_unlike(f"shapes {', '.join(ours)} and {', '.join(theirs)}"))
    for shape in ours:
        # Drafters change no caption: on the same windows they bring the same tokens.
        if not np.array_equal(ours[shape][:, 0], theirs[shape][:, 0]):
            raise ConfigError(_unlike(f"different windows of {bucket} visual tokens"))
    left_W2, right_W2 = (np.stack(list(counts.values())).sum(0) for counts in (ours, theirs))
    draws = np.random.default_rng(0).integers(0, len(left_W2), (NUM_RESAMPLES, len(left_W2)))
    low, high = np.quantile(_ratio(left_W2[draws], right_W2[draws]), [0.025, 0.975])
    return Gain(bucket, len(left_W2), float(_ratio(left_W2, right_W2)), float(low), float(high))


def _ratio(left_W2: np.ndarray, right_W2: np.ndarray) -> np.ndarray:
    """tau over tau, less one; the tokens are the same, so that rounds decide."""
    return right_W2[..., 1].sum(-1) / np.maximum(1, left_W2[..., 1].sum(-1)) - 1


def _unlike(what: str) -> str:
    return f"the two were measured on {what}; measure both in one call of jobs/evaluate_draft.py"
