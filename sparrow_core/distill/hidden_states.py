"""Captured windows and training examples: how hidden states, tokens and captions are paired for distillation.

It knows no model and no storage (`store.py`), nor how a caption was written (`recorder.py`).

    text token           0    1    2   ...  E-2   E-1
    target hidden state  h0   h1   h2  ...  h(E-2)         the last token is never run
    slot i of the drafter reads hidden state i and token i+1, and predicts token i+2; its output estimates hidden state
    i+1

Shape letters: C tokens of a caption, D hidden size, E text tokens of a training example: its prompt and its caption,
M visual tokens, S slots of a sequence, T text tokens (of a prompt; of an example without its last one, so E - 1),
U visual tokens whose bridge-layer states are kept.
"""

from dataclasses import dataclass
from typing import Literal

import torch

VisualSource = Literal["bridge", "embeddings"]


@dataclass(frozen=True)
class CapturedCaption:
    """A caption, and the final-norm hidden states of all of its tokens but the last [C - 1, D]."""

    token_ids_C: torch.Tensor
    hidden_CD: torch.Tensor


@dataclass(frozen=True)
class CapturedWindow:
    """What is kept of a prompt and of the captions that the target wrote for it; tensors as the target computed them.

    Slots count the tokens of the prompt, visual tokens included. `bridge_UD` holds outputs of the bridge layer at a
    sample of the visual slots, in order; `embeddings_MD` all visual embeddings, or none (they are large).
    """

    prompt_ids_T: torch.Tensor
    prompt_slots_T: torch.Tensor
    prompt_hidden_TD: torch.Tensor
    bridge_slots_U: torch.Tensor
    bridge_UD: torch.Tensor
    embeddings_MD: torch.Tensor
    captions: tuple[CapturedCaption, ...]


@dataclass(frozen=True)
class TrainingExample:
    """One caption with its prompt. `is_caption_E` marks the generated tokens; visual tensors as in `CapturedWindow`.

    `hidden_TD` are the final-norm hidden states of all text tokens but the last. lm_head gives the target's
    distributions from them, exactly and for any vocabulary, so no log-probabilities are kept.
    """

    token_ids_E: torch.Tensor
    slots_E: torch.Tensor
    hidden_TD: torch.Tensor
    is_caption_E: torch.Tensor
    bridge_slots_U: torch.Tensor
    bridge_UD: torch.Tensor
    embeddings_MD: torch.Tensor

    def visual(self, source: VisualSource) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots of the kept visual tokens [M], and their bridge-layer hidden states or embeddings [M, D]."""
        if source == "bridge":
            return self.bridge_slots_U, self.bridge_UD
        is_text_S = torch.zeros(int(self.slots_E[-1]) + 1, dtype=torch.bool)
        is_text_S[self.slots_E] = True
        return (~is_text_S).nonzero()[:, 0], self.embeddings_MD


def training_example(window: CapturedWindow, number: int) -> TrainingExample:
    """Caption `number` of a captured window."""
    caption = window.captions[number]
    length = len(caption.token_ids_C)
    is_caption_E = torch.arange(len(window.prompt_ids_T) + length) >= len(window.prompt_ids_T)
    caption_slots_C = torch.arange(length) + window.prompt_slots_T[-1] + 1
    return TrainingExample(
        token_ids_E=torch.cat([window.prompt_ids_T, caption.token_ids_C]).long(),
        slots_E=torch.cat([window.prompt_slots_T, caption_slots_C]).long(),
        hidden_TD=torch.cat([window.prompt_hidden_TD, caption.hidden_CD]),
        is_caption_E=is_caption_E,
        bridge_slots_U=window.bridge_slots_U.long(),
        bridge_UD=window.bridge_UD,
        embeddings_MD=window.embeddings_MD,
    )
