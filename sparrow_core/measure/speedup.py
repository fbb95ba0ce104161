"""Definitions of tau, round cost, decode speedup and end-to-end speedup, for every table that reports them.

Each is a ratio of two sums over windows, except the round cost, which follows from two others. A ratio keeps its two
terms apart, so that a bootstrap over windows can sum them again. Pure arithmetic: `speed` and `methods` measure what
goes in.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple


class Ratio(NamedTuple):
    """A ratio by its terms, which add up over windows."""

    numerator: float
    denominator: float

    @property
    def value(self) -> float:
        return self.numerator / self.denominator


@dataclass(frozen=True)
class Decoding:
    """Tokens, rounds and wall seconds of decoding one window, or their sums over several windows.

    `tokens` leaves out the first token of each window, which prefill gives. `rounds` are the target calls after
    prefill. `decode_s` runs from the end of the target's prefill to the last token, the drafter's prefill included.
    `before_s` is what comes before: vision and the target's prefill.
    """

    tokens: float
    rounds: float
    decode_s: float
    before_s: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.decode_s

    def scaled_to(self, tokens: float) -> "Decoding":
        """The same decoding speed over another number of tokens, to compare captions of different lengths."""
        share = tokens / self.tokens
        return replace(self, tokens=tokens, rounds=self.rounds * share, decode_s=self.decode_s * share)


def tau(run: Decoding) -> Ratio:
    """Tokens per target call, the bonus token counted."""
    return Ratio(run.tokens, run.rounds)


def decode_speedup(run: Decoding, loop: Decoding) -> Ratio:
    """Decoding time of the autoregressive loop over that of `run`, for the same number of tokens."""
    return Ratio(loop.decode_s, run.decode_s)


def round_cost(tau: float, decode_speedup: float) -> float:
    """Time of one round over that of one autoregressive step.

    The loop takes one step per token, so that this is tau over decode speedup.
    """
    return tau / decode_speedup


def end_to_end_speedup(run: Decoding, loop: Decoding) -> Ratio:
    """Decode speedup of whole requests: vision and prefill count too."""
    return Ratio(loop.before_s + loop.decode_s, run.before_s + run.decode_s)


def end_to_end_bound(loop: Decoding) -> Ratio:
    """The end-to-end speedup that decoding in no time at all would reach."""
    return Ratio(loop.before_s + loop.decode_s, loop.before_s)
