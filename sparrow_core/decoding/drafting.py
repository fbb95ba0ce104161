"""What the engine needs from any drafter. Sparrow's and every rival implement it; the engine knows none by name.

Shape letters: T text tokens, R rows, D the target's hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from sparrow_core.config import DraftConfig
from sparrow_core.types import Draft, Sampling


@dataclass(frozen=True)
class TextContext:
    """The text part of a prefilled prompt, visual positions cut out: ids and the target's final-norm states there."""

    token_ids_T: torch.Tensor
    states_TD: torch.Tensor


@dataclass(frozen=True)
class Turn:
    """Where a round starts: the last committed token, the index of its successor among generated ones, the round."""

    root: int
    position: int
    round_index: int
    sampling: Sampling


class DraftSession(Protocol):
    """The drafter's memory of one sequence."""

    def commit(self, token_ids: Sequence[int], states_RD: torch.Tensor) -> None:
        """Learn which nodes were accepted (the root first) and the target's true states at them."""
        ...


Session = TypeVar("Session", bound=DraftSession)


@dataclass(frozen=True)
class DraftJob(Generic[Session]):
    """One sequence's wish for a draft rooted at `turn.root`, of at most `shape.total` nodes."""

    session: Session
    turn: Turn
    shape: DraftConfig


class Drafter(Protocol[Session]):
    """Opens sessions and drafts for many of them at once; holds weights, if it has any."""

    name: str

    def open(self, context: TextContext, max_new_tokens: int) -> Session:
        """Prefill on a prompt's text and make room for `max_new_tokens` more."""
        ...

    def propose(self, jobs: Sequence[DraftJob[Session]]) -> list[Draft]:
        """A draft for each job, sessions all different. A draft may be its root alone."""
        ...
