"""The drafter protocol: what the engine needs from any drafter. Sparrow and its rivals implement it.

Shape letters: D hidden size, G KV heads, L layers, R rows of a pass, S slots of a sequence, T text tokens, d head size.
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
    """What a drafter or a recording reads of a prompt's visual tokens.

    It always gets their embeddings and the target's keys. In addition it gets the outputs of target layers, counted
    from 1: those in `tap_layers` at all slots, those in `text_tap_layers` at text slots only.
    """

    tap_layers: tuple[int, ...] = ()
    text_tap_layers: tuple[int, ...] = ()

    @staticmethod
    def of_all(needs: "Iterable[VisualNeeds | None]") -> "VisualNeeds | None":
        """The union of several readers' needs; None if none of them reads visual tokens."""
        given = [need for need in needs if need is not None]
        everywhere = {layer for need in given for layer in need.tap_layers}
        at_text = {layer for need in given for layer in need.text_tap_layers}
        return VisualNeeds(tuple(sorted(everywhere)), tuple(sorted(at_text))) if given else None


@dataclass(frozen=True)
class VisualContext:
    """A prefilled prompt with its visual slots.

    `taps[m]` holds the outputs of target layer m at all slots [S, D], `text_taps[m]` those at text slots [T, D].
    `keys_LGSd` holds the target's keys of every layer.
    """

    is_text_S: torch.Tensor
    embedded: EmbeddedPrompt
    keys_LGSd: torch.Tensor
    taps: dict[int, torch.Tensor]
    text_taps: dict[int, torch.Tensor]


@dataclass(frozen=True)
class PromptContext:
    """A prefilled prompt without its visual tokens: text token ids and the target's final-norm hidden states there.

    `visual` is set only if a drafter or a recording asked for it (`VisualNeeds`).
    """

    token_ids_T: torch.Tensor
    hidden_TD: torch.Tensor
    visual: VisualContext | None = None


@dataclass(frozen=True)
class DraftContext:
    """Where a round starts.

    `root` is the last committed token, `position` the index of the next token among the generated ones, `round_index`
    the number of rounds before this one.
    """

    root: int
    position: int
    round_index: int
    sampling: Sampling


class DraftSession(Protocol):
    """A drafter's state for one sequence."""

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        """Take in the tokens of the accepted nodes, the root first, and the target's hidden states at them."""
        ...


class Recording(Protocol):
    """Records what the target computes for one completion. It is given what a `DraftSession` is given."""

    @property
    def visual_needs(self) -> VisualNeeds | None:
        """What it reads of visual tokens; None: nothing."""
        ...

    def begin(self, context: PromptContext) -> None:
        """Called once, after prefill."""
        ...

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        """Take in tokens that the target has passed and committed, with their hidden states.

        A completion's last token is never among them: no pass follows it.
        """
        ...


Session = TypeVar("Session", bound=DraftSession)


@dataclass(frozen=True)
class DraftJob(Generic[Session]):
    """One sequence's request for a draft rooted at `draft_context.root`, of at most `shape.total` nodes."""

    session: Session
    draft_context: DraftContext
    shape: DraftConfig


class Drafter(Protocol[Session]):
    """Opens a session for each sequence and drafts for many sequences at once. Holds the weights, if there are any."""

    name: str

    @property
    def visual_needs(self) -> VisualNeeds | None:
        """What it reads of visual tokens; None: nothing."""
        ...

    def open(self, context: PromptContext, max_new_tokens: int) -> Session:
        """Prefill on a prompt's text and reserve memory for `max_new_tokens` more."""
        ...

    def propose(self, jobs: Sequence[DraftJob[Session]]) -> list[Draft]:
        """One draft for each job. The jobs' sessions must all differ. A draft may consist of its root alone."""
        ...
