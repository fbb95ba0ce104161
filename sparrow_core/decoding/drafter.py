"""What the engine needs from any drafter. Sparrow's and every rival implement it; the engine knows none by name.

Shape letters: S prompt slots, T text tokens, R rows, D the target's hidden size; L layers, G KV heads, d head size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.target import EmbeddedPrompt
from sparrow_core.types import Draft, Sampling


@dataclass(frozen=True)
class VisualNeeds:
    """What a drafter, or somebody who records states, reads of a prompt's video: its embeddings, the target's keys, and
    the outputs of these target layers (counted from 1) at all slots or at the text alone."""

    tap_layers: tuple[int, ...] = ()
    text_tap_layers: tuple[int, ...] = ()

    @staticmethod
    def of_all(needs: "Iterable[VisualNeeds | None]") -> "VisualNeeds | None":
        """What serves all of several readers; None if none of them looks at the video."""
        given = [need for need in needs if need is not None]
        everywhere = {layer for need in given for layer in need.tap_layers}
        at_text = {layer for need in given for layer in need.text_tap_layers}
        return VisualNeeds(tuple(sorted(everywhere)), tuple(sorted(at_text))) if given else None


@dataclass(frozen=True)
class VisualContext:
    """A prefilled prompt with its visual slots. `taps[m]` are the outputs of target layer m at all slots [S, D],
    `text_taps[m]` those at text slots [T, D]; `keys_LGSd` what every layer's attention compares queries with."""

    is_text_S: torch.Tensor
    embedded: EmbeddedPrompt
    keys_LGSd: torch.Tensor
    taps: dict[int, torch.Tensor]
    text_taps: dict[int, torch.Tensor]


@dataclass(frozen=True)
class PromptContext:
    """A prefilled prompt: token ids and the target's final-norm states at its text positions, visual ones cut out.

    `visual` is there only if somebody asked for it (`VisualNeeds`).
    """

    token_ids_T: torch.Tensor
    hidden_TD: torch.Tensor
    visual: VisualContext | None = None


@dataclass(frozen=True)
class DraftContext:
    """Where a round starts: the last committed token, the index of its successor among generated ones, the round."""

    root: int
    position: int
    round_index: int
    sampling: Sampling


class DraftSession(Protocol):
    """The drafter's memory of one sequence."""

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        """Learn which nodes were accepted (the root first) and the target's true states at them."""
        ...


class Recording(Protocol):
    """Somebody who takes down what the target computes for one completion. It sees what a `DraftSession` sees."""

    @property
    def visual_needs(self) -> VisualNeeds | None: ...

    def begin(self, context: PromptContext) -> None:
        """The prompt is read."""
        ...

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        """Tokens were read for good, with these states. The last token of a completion never is."""
        ...


Session = TypeVar("Session", bound=DraftSession)


@dataclass(frozen=True)
class DraftJob(Generic[Session]):
    """One sequence's wish for a draft rooted at `draft_context.root`, of at most `shape.total` nodes."""

    session: Session
    draft_context: DraftContext
    shape: DraftConfig


class Drafter(Protocol[Session]):
    """Opens sessions and drafts for many of them at once; holds weights, if it has any."""

    name: str

    @property
    def visual_needs(self) -> VisualNeeds | None:
        """What it reads of the video; None: it never sees it."""
        ...

    def open(self, context: PromptContext, max_new_tokens: int) -> Session:
        """Prefill on a prompt's text and make room for `max_new_tokens` more."""
        ...

    def propose(self, jobs: Sequence[DraftJob[Session]]) -> list[Draft]:
        """A draft for each job, sessions all different. A draft may be its root alone."""
        ...
