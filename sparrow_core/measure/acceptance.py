"""Acceptance of drafters: tau, acceptance by depth and entropy, from speculative decoding of held-out windows.

Owns the measurement and its statistics, with the bootstrap over windows. Knows no drafter by name and does not know
where windows come from.

Shape letters: R rows, D hidden size, V vocabulary.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from sparrow_core.decoding.drafter import PromptContext, VisualNeeds
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.errors import ConfigError
from sparrow_core.types import Request

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class WindowAcceptance:
    """Counts of one decoded window. `accepted_per_round` leaves the bonus token out; `entropy_sum` is in nats."""

    visual_tokens: int
    rounds: int
    tokens_from_rounds: int
    accepted_per_round: tuple[int, ...]
    entropy_sum: float
    num_tokens: int


@dataclass(frozen=True)
class AcceptanceRow:
    """One drafter on one bucket of visual length under one draft shape, greedy or sampled with shared noise.

    `tau` counts the bonus token and pools the rounds of all windows; `tau_low` and `tau_high` bound its bootstrap 95 %
    interval over windows. `depth_acceptance[d]` is the share of drafts accepted to depth d + 1 among those accepted to
    depth d. `mean_entropy` (nats) is the mean entropy of the target's distribution over the tokens of the captions.
    `counts` holds (tokens from rounds, rounds) of each window, in the order of the windows.
    """

    drafter: str
    draft: str
    bucket: str
    windows: int
    tau: float
    tau_low: float
    tau_high: float
    depth_acceptance: tuple[float, ...]
    mean_entropy: float
    mean_visual_tokens: float
    counts: tuple[tuple[int, int], ...]
    temperature: float = 0.0


def measure_window(engine: Engine, request: Request, modes: Sequence[DecodeMode]) -> list[WindowAcceptance]:
    """Decode one request in every mode after a single prefill -> counts in the order of `modes`."""
    recorders = [EntropyRecorder(engine.target) for _ in modes]
    recorded = [replace(mode, recording=recorder) for mode, recorder in zip(modes, recorders, strict=True)]
    completions = [ticket.result() for ticket in engine.submit_modes(request, recorded)]
    return [
        WindowAcceptance(
            visual_tokens=completion.visual_tokens,
            rounds=completion.stats.rounds,
            tokens_from_rounds=completion.stats.tokens_from_rounds,
            accepted_per_round=completion.stats.accepted_per_round,
            entropy_sum=sum(recorder.entropies[: len(completion.token_ids)]),
            num_tokens=len(completion.token_ids),
        )
        for recorder, completion in zip(recorders, completions, strict=True)
    ]


class EntropyRecorder:
    """A `Recording` of entropies in nats: `entropies[i]` is that of the target's distribution at temperature 1 from
    which token i of the caption is chosen."""

    visual_needs: VisualNeeds | None = None

    def __init__(self, target: TargetModel) -> None:
        self._target = target
        self.entropies: list[float] = []

    def begin(self, context: PromptContext) -> None:
        self.commit((), context.hidden_TD[-1:])

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        log_probs_RV = self._target.logits(hidden_RD).log_softmax(-1)
        self.entropies += (-(log_probs_RV.exp() * log_probs_RV).sum(-1)).tolist()


def summarise(
    drafter: str, draft: str, bucket: str, windows: Sequence[WindowAcceptance], temperature: float = 0.0
) -> AcceptanceRow:
    """Pool the windows of a bucket into one row. Raises ConfigError for an empty bucket."""
    if not windows:
        raise ConfigError(f"bucket {bucket!r} has no window to measure; give it at least one")
    tokens = np.array([window.tokens_from_rounds for window in windows])
    rounds = np.array([window.rounds for window in windows])
    low, high = bootstrap_interval(tokens, rounds)
    return AcceptanceRow(
        drafter=drafter,
        draft=draft,
        bucket=bucket,
        windows=len(windows),
        tau=_mean(tokens.sum(), rounds.sum()),
        tau_low=low,
        tau_high=high,
        depth_acceptance=depth_acceptance(window.accepted_per_round for window in windows),
        mean_entropy=_mean(sum(w.entropy_sum for w in windows), sum(w.num_tokens for w in windows)),
        mean_visual_tokens=float(np.mean([window.visual_tokens for window in windows])),
        counts=tuple((window.tokens_from_rounds, window.rounds) for window in windows),
        temperature=temperature,
    )


def bootstrap_interval(tokens: np.ndarray, rounds: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Bootstrap 95 % interval over windows of sum(tokens) / sum(rounds), or of any ratio of two sums.

    `tokens` and `rounds` are [windows]. nan without rounds.
    """
    if rounds.sum() == 0:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(0, len(tokens), (NUM_RESAMPLES, len(tokens)))
    ratios = tokens[draws].sum(1) / np.maximum(np.finfo(float).tiny, rounds[draws].sum(1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def depth_acceptance(captions: Iterable[Sequence[int]]) -> tuple[float, ...]:
    """Share of rounds that accept a token at depth 1, 2, ... among the rounds that accept all depths before it.

    The last round of each caption is left out: the caption ends in it, however much of the draft would be accepted.
    """
    accepted = np.array([number for accepted_per_round in captions for number in accepted_per_round[:-1]])
    if accepted.size == 0:
        return ()
    reached = [int((accepted >= depth).sum()) for depth in range(int(accepted.max()) + 1)]
    return tuple(deeper / reach for reach, deeper in pairwise(reached))


def _mean(total: float, count: float) -> float:
    return float(total / count) if count else math.nan
