"""Paired gains against hand counts and in a case where pairing decides, and what cannot be compared."""

from dataclasses import replace

import numpy as np
import pytest

from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow, WindowAcceptance, summarise
from sparrow_core.measure.paired_gains import LEAST_WINDOWS, Gain, gains, is_better


def row(bucket: str, counts: list[tuple[int, int]], draft: str = "chain") -> AcceptanceRow:
    windows = [WindowAcceptance(int(bucket), rounds, tokens, (0,), 0.0, tokens + 1) for tokens, rounds in counts]
    return summarise("any", draft, bucket, windows)


def test_gain_is_the_ratio_of_taus() -> None:
    ours = [row("64", [(30, 10), (60, 20)]), row("512", [(30, 10)] * 3)]
    theirs = [row("64", [(30, 15), (60, 21)]), row("512", [(30, 10)] * 3)]
    short, long = gains(ours, theirs)
    assert (short.bucket, short.windows, long.bucket) == ("64", 2, "512")
    assert short.gain == pytest.approx((90 / 30) / (90 / 36) - 1)
    assert (long.gain, long.low, long.high) == (0, 0, 0)


def test_shapes_are_taken_together() -> None:
    ours = [row("64", [(30, 10)]), row("64", [(30, 5)], "tree")]
    theirs = [row("64", [(30, 12)]), row("64", [(30, 6)], "tree")]
    assert gains(ours, theirs)[0].gain == pytest.approx(18 / 15 - 1)


def test_pairing_finds_what_windows_hide() -> None:
    """Each window gains 5 %; windows themselves differ by a factor of three."""
    rng = np.random.default_rng(0)
    rounds = rng.integers(100, 300, 12)
    ours = [row("64", [(600, int(n)) for n in rounds])]
    theirs = [row("64", [(600, int(n * 1.05)) for n in rounds])]
    (found,) = gains(ours, theirs)
    assert 0.03 < found.low <= found.gain <= found.high < 0.07
    assert ours[0].tau_low < theirs[0].tau < ours[0].tau_high  # unpaired intervals overlap


@pytest.mark.parametrize(
    ("longest", "shorter", "margin", "better"),
    [(0.1, 0.0, 0.0, True), (0.1, 0.0, 0.2, False), (0.0, 0.1, 0.0, False), (0.1, -0.1, 0.0, False)],
)
def test_what_counts_as_better(longest: float, shorter: float, margin: float, better: bool) -> None:
    def rounds(gain: float) -> int:
        return round(1000 / (1 + gain))

    ours = [row("64", [(3000, rounds(shorter))] * 8), row("6000", [(3000, rounds(longest))] * 8)]
    theirs = [row("64", [(3000, 1000)] * 8), row("6000", [(3000, 1000)] * 8)]
    assert is_better(gains(ours, theirs), margin) is better


def test_few_windows_prove_nothing() -> None:
    """If few windows happen to gain alike, the interval has no width."""
    ours, theirs = [row("64", [(3000, 900)] * 5)], [row("64", [(3000, 1000)] * 5)]
    (found,) = gains(ours, theirs)
    assert found.low > 0 and not is_better([found], margin=0.0)


def test_only_like_is_compared_with_like() -> None:
    one = row("64", [(30, 10)])
    with pytest.raises(ConfigError, match="different windows of 64"):
        gains([one], [row("64", [(31, 10)])])
    with pytest.raises(ConfigError, match="visual lengths 64 and 512"):
        gains([one], [row("512", [(30, 10)])])
    with pytest.raises(ConfigError, match="shapes chain at T=0 and tree at T=0"):
        gains([one], [replace(one, draft="tree")])


BETTER, ALIKE, UNSURE, WORSE = (0.05, 0.02, 0.08), (0.0, 0.0, 0.0), (-0.01, -0.04, 0.02), (-0.05, -0.08, -0.02)
"""Gain, and the ends of its interval."""


def found(*by_length: tuple[float, float, float], windows: int = 40) -> list[Gain]:
    """Gains on ever longer buckets."""
    return [Gain(str(64 * 8**index), windows, *gain) for index, gain in enumerate(by_length)]


@pytest.mark.parametrize(
    ("gains_found", "margin", "better"),
    [
        (found(ALIKE, ALIKE, BETTER), 0.0, True),
        (found(BETTER, BETTER, BETTER), 0.0, True),
        (found(UNSURE, UNSURE, BETTER), 0.0, True),  # worse by no more than chance explains
        # Worse by more than chance on one of the shorter buckets, whichever.
        (found(WORSE, BETTER, BETTER), 0.0, False),
        (found(BETTER, WORSE, BETTER), 0.0, False),
        (found((-0.05, -0.08, 0.0), ALIKE, BETTER), 0.0, True),  # an interval that reaches 0
        (found((-0.05, -0.08, -1e-9), ALIKE, BETTER), 0.0, False),
        # Better on a shorter bucket alone.
        (found(BETTER, ALIKE, ALIKE), 0.0, False),
        (found(BETTER, BETTER, UNSURE), 0.0, False),
        (found(BETTER, BETTER, WORSE), 0.0, False),
        # The whole interval must lie above the margin.
        (found(BETTER), 0.019, True),
        (found(BETTER), 0.02, False),
        (found(BETTER), 0.03, False),  # below the gain, above the interval's low end
        (found((0.05, 0.0, 0.1)), 0.0, False),
        (found(ALIKE), 0.0, False),
        (found(ALIKE, ALIKE, ALIKE), 0.0, False),
        # Enough windows of the longest bucket, however many there are of the others.
        (found(BETTER, windows=LEAST_WINDOWS), 0.0, True),
        (found(BETTER, windows=LEAST_WINDOWS - 1), 0.0, False),
        ([*found(ALIKE, windows=1), replace(found(BETTER)[0], bucket="512")], 0.0, True),
        ([*found(ALIKE), replace(found(BETTER, windows=1)[0], bucket="512")], 0.0, False),
    ],
)
def test_the_rule_at_its_boundaries(gains_found: list[Gain], margin: float, better: bool) -> None:
    assert is_better(gains_found, margin) is better


def test_the_longest_bucket_is_the_last_by_number() -> None:
    """As text, 512 comes after 1500, and 64 after both."""
    rows = [row(bucket, [(30, 10)] * 6) for bucket in ("512", "64", "6000", "1500")]
    assert [gain.bucket for gain in gains(rows, rows)] == ["64", "512", "1500", "6000"]


def test_the_interval_is_one_of_the_gain() -> None:
    """Half of the windows gain 20 %, half nothing: whatever windows are drawn, the gain lies between."""
    ours = [row("64", [(600, 100), (600, 120)] * 10)]
    theirs = [row("64", [(600, 120), (600, 120)] * 10)]
    (gain,) = gains(ours, theirs)
    assert gain.gain == pytest.approx(240 / 220 - 1)
    assert 0 < gain.low < gain.gain < gain.high < 0.2
    (loss,) = gains(theirs, ours)
    assert loss.gain == pytest.approx(220 / 240 - 1)
    assert -0.2 < loss.low < loss.gain < loss.high < 0
