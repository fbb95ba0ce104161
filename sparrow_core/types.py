"""Value types shared by all of `sparrow_core`: frames, requests, drafts, verdicts, completions. All frozen.

Shape letters: N nodes of a draft, V vocabulary; pixels T frames, H height, W width, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from sparrow_core.config import Sampling

if TYPE_CHECKING:  # processes that only decode videos start without torch
    import torch

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Frames:
    """A window's decoded frames, as a target takes them.

    `pixels_THWC` is uint8 RGB, upright. `times_s` are presentation times in seconds from the start of the video.
    `sampled_fps` is the rate of the sampling instants in frames per second; position ids are built from it.
    """

    pixels_THWC: np.ndarray
    times_s: tuple[float, ...]
    sampled_fps: float


@dataclass(frozen=True)
class Message:
    """One message of a conversation. A part is text, a video (`Frames`) or an image (uint8 RGB [H, W, C])."""

    role: str
    parts: tuple[str | Frames | np.ndarray, ...]


@dataclass(frozen=True)
class Request:
    """One caption to write. `request_id` is only a label: the result comes back on the request's ticket."""

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 256
    request_id: str = ""


@dataclass(frozen=True)
class Draft:
    """A proposed tree of tokens; a chain is the tree in which every node has one child.

    Node 0 is the root: the last committed token, which the target has not passed yet. Parents precede children, and
    siblings are in the order in which they were proposed. `tokens_N` and `parents_N` are int64 on the CPU;
    `parents_N[0]` is -1. `proposal_NV`, which rejection sampling needs, is the drafter's distribution from which the
    children of each node were drawn without replacement (float32, on the target's device).
    """

    tokens_N: torch.Tensor
    parents_N: torch.Tensor
    proposal_NV: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.tokens_N.numel()


@dataclass(frozen=True)
class Verdict:
    """What the target accepted of a draft: `path`, the node indices from the root (included) down, and the bonus token.

    A round adds `len(path)` tokens to the caption: the accepted nodes below the root, and the bonus token.
    """

    path: tuple[int, ...]
    bonus: int


@dataclass(frozen=True)
class SpecStats:
    """Counts of one completion. Rounds are target calls after prefill; the first token comes from prefill itself.

    `in_doubt` counts near-ties, which were decided by one more pass over a single row (see `decoding.near_ties`).
    """

    rounds: int = 0
    tokens_from_rounds: int = 0
    drafted: int = 0
    accepted_per_round: tuple[int, ...] = ()
    in_doubt: int = 0

    @property
    def tau(self) -> float:
        """Tokens per round, bonus tokens included; nan before the first round."""
        return self.tokens_from_rounds / self.rounds if self.rounds else float("nan")


@dataclass(frozen=True)
class Timings:
    """Wall seconds of one completion, by stage. `decode_s` runs from the end of target prefill to the last token."""

    vision_s: float = 0.0
    prefill_s: float = 0.0
    drafter_prefill_s: float = 0.0
    draft_s: float = 0.0
    verify_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Completion:
    """A finished caption. `token_ids` ends with the stop token if one was produced; `text` omits it."""

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    visual_tokens: int
    stats: SpecStats
    timings: Timings
