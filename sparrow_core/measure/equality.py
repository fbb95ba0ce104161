"""Checks losslessness: the engine's token ids against transformers' own `generate` and our autoregressive loop.

Owns the comparison and the only excuse for a difference: a tie. Knows no drafter by name and does not know where
windows come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sparrow_core.config import DraftConfig, EngineConfig, Sampling
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.drafter import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.engine import Engine
from sparrow_core.engine.ticket import DecodeMode
from sparrow_core.targets import reference
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Completion, Request

MAX_TIE_GAP = 1e-5


@dataclass(frozen=True)
class EqualityResult:
    """One window in one mode. `first_difference` indexes generated tokens and is None if all are equal.

    `excused` marks a difference that float64 shows to be a tie; `gap_float64` is the gap between the two largest logits
    there. `num_tokens` counts the tokens of the expected caption.
    """

    window: str
    visual_tokens: int
    mode: str
    num_tokens: int
    tau: float
    first_difference: int | None = None
    excused: bool = False
    gap_float64: float | None = None

    @property
    def equal(self) -> bool:
        return self.first_difference is None


def first_difference(left: tuple[int, ...], right: tuple[int, ...]) -> int | None:
    """Index of the first token in which two captions differ (their common length, if one is longer), or None."""
    if left == right:
        return None
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


class EqualityCheck:
    """One engine with a mode for every pair of drafter and draft shape (None: the governor chooses), and the two
    references that judge them: transformers' `generate` and our autoregressive loop, the oracle."""

    def __init__(
        self,
        source: str,
        target: TargetModel,
        drafters: Mapping[str, Drafter[Any]],
        shapes: Mapping[str, DraftConfig | None],
        config: EngineConfig | None = None,
        *,
        against_oracle: bool = False,
    ) -> None:
        self._source, self._target, self._against_oracle = source, target, against_oracle
        self._library = reference.load_reference(source, device=target.info.device, dtype=target.info.dtype)
        self._engine = Engine(target, None, config)
        self._modes = {
            f"{name}, {shape}": DecodeMode(drafter, draft, Sampling())
            for name, drafter in drafters.items()
            for shape, draft in shapes.items()
        }

    def close(self) -> None:
        self._engine.close()

    def compare(self, requests: Sequence[Request]) -> Iterator[list[EqualityResult]]:
        """Decode all requests in every mode, all at once in the engine -> the results, request by request."""
        submitted = [
            self._engine.submit_modes(
                request, [replace(mode, sampling=request.sampling) for mode in self._modes.values()]
            )
            for request in requests
        ]
        for request, tickets in zip(requests, submitted, strict=True):
            completions = [ticket.result() for ticket in tickets]
            yield list(self._judged(request, dict(zip(self._modes, completions, strict=True))))

    def _judged(self, request: Request, completions: Mapping[str, Completion]) -> Iterator[EqualityResult]:
        """Judge greedy captions by `generate`, or by the oracle if asked to; sampled ones always by the oracle."""
        prompt = self._target.build_prompt(request.messages)
        if request.sampling.temperature == 0 and not self._against_oracle:
            expected = reference.generate(self._library, prompt, request.max_new_tokens).token_ids
        else:
            expected = generate_autoregressively(self._target, prompt, request.sampling, request.max_new_tokens)
        for mode, completion in completions.items():
            difference = first_difference(completion.token_ids, expected)
            excused, gap = (False, None) if difference is None else self._is_tie(request, difference)
            yield EqualityResult(
                request.request_id,
                completion.visual_tokens,
                mode,
                len(expected),
                completion.stats.tau,
                difference,
                excused,
                gap,
            )

    def _is_tie(self, request: Request, position: int) -> tuple[bool, float | None]:
        """Whether, in float64, both references write the same caption with a gap at `position` below `MAX_TIE_GAP`;
        and that gap.

        A sampled request is never excused: its noise decides between tokens whose logits need not be close.
        """
        if request.sampling.temperature > 0:
            return False, None
        target = load_target(self._source, device=str(self._target.info.device), dtype="float64")
        library = reference.load_reference(self._source, device=target.info.device, dtype=torch.float64)
        prompt = target.build_prompt(request.messages)
        theirs = reference.generate(library, prompt, request.max_new_tokens).token_ids
        ours = generate_autoregressively(target, prompt, request.sampling, request.max_new_tokens)
        gap = reference.top_two_gap(library, prompt, theirs[:position])
        return theirs == ours and gap < MAX_TIE_GAP, gap
