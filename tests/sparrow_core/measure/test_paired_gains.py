"""Paired gains against hand counts and in a case where pairing decides, and what cannot be compared."""

from dataclasses import replace

import numpy as np
import pytest

from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow, WindowAcceptance, summarise
from sparrow_core.measure.paired_gains import gains, is_better


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
