"""A clock that stands still except in the stages of a target and a drafter, each of which takes a known time.

With it a split of wall time is exact: no test sleeps, and a busy machine changes nothing.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import pytest
import torch

from sparrow_core.decoding.drafter import DraftJob, PromptContext
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, SequenceRows, TargetModel, TargetPass
from sparrow_core.types import Draft

# Seconds: of the vision tower, of a chunk of a prompt, of a verification pass, and of any call of lm_head.
VISION_S, CHUNK_S, PASS_S, LOGITS_S = 1000.0, 100.0, 10.0, 1.0


class StageClock:
    """What `time.perf_counter` says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        """A stage takes its time."""
        self.now += seconds


def stage_clock(target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> StageClock:
    """The clock of this process until the test ends, and the stages of `target` that move it."""
    clock = StageClock()
    embed, forward, logits = target.embed_by_frames, target.forward_by_layer, target.logits

    def seeing(prompt: Prompt) -> Generator[None, None, EmbeddedPrompt]:
        clock.spend(VISION_S)
        return (yield from embed(prompt))

    def passing(
        embeddings_RD: torch.Tensor, positions_AR: torch.Tensor, sequences: Sequence[SequenceRows], *taps: Any
    ) -> Generator[None, None, TargetPass]:
        clock.spend(CHUNK_S if sequences[0].cache.prompt_length is None else PASS_S)
        return (yield from forward(embeddings_RD, positions_AR, sequences, *taps))

    def choosing(states: torch.Tensor) -> torch.Tensor:
        clock.spend(LOGITS_S)
        return logits(states)

    monkeypatch.setattr(target, "embed_by_frames", seeing)
    monkeypatch.setattr(target, "forward_by_layer", passing)
    monkeypatch.setattr(target, "logits", choosing)
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class TimedDrafter:
    """Drafts chains of token 0. Its openings and proposals take the times of two lists, whose last ones go on."""

    name = "timed"
    visual_needs = None

    def __init__(self, clock: StageClock, open_s: Iterable[float], propose_s: Iterable[float]) -> None:
        self._clock, self._open_s, self._propose_s = clock, _going_on(open_s), _going_on(propose_s)
        self.batches: list[int] = []

    def open(self, context: PromptContext, max_new_tokens: int) -> "TimedDrafter":
        self._clock.spend(next(self._open_s))
        return self

    def propose(self, jobs: Sequence[DraftJob["TimedDrafter"]]) -> list[Draft]:
        self._clock.spend(next(self._propose_s))
        self.batches.append(len(jobs))
        return [
            Draft(torch.tensor([job.draft_context.root] + [0] * job.shape.depth), torch.arange(-1, job.shape.depth))
            for job in jobs
        ]

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        pass


def _going_on(seconds: Iterable[float]) -> Iterator[float]:
    *first, last = seconds
    return chain(first, repeat(last))
