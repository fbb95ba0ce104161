"""One window as distillation sees it, the batch made of such windows, and the rule of which positions are learnt.

Owns the pairing of states, tokens and captions. It knows no model and no storage (`store.py`), and nothing of how a
caption was obtained (`recorder.py`).

Shape letters: B rows of a batch, L text tokens (visual placeholders cut out), T = L - 1 drafter slots, P text tokens of
a prompt, C caption tokens, M bridge tokens, V visual tokens, D hidden size.

    text token    0    1    2   ...  L-2   L-1
    target state  h0   h1   h2  ...  h(L-2)          the last token is never read
    slot i of the drafter reads state i and token i+1, and predicts token i+2; its own output estimates state i+1.
"""

from dataclasses import dataclass
from typing import Literal

import torch

VisualSource = Literal["bridge", "embeddings"]


@dataclass(frozen=True)
class CapturedCaption:
    """A caption and the final-norm states of all of its tokens but the last [C - 1, D]."""

    token_ids_C: torch.Tensor
    hidden_CD: torch.Tensor


@dataclass(frozen=True)
class CapturedWindow:
    """What is kept of a prompt and of captions that the target wrote for it; tensors are as the target computed them.

    Slots are places in the prompt with its visual tokens. `bridge_MD` holds outputs of the bridge layer at a sample of
    the visual slots, in order; `embeddings_VD` all visual embeddings, or none (they are large).
    """

    prompt_ids_P: torch.Tensor
    prompt_slots_P: torch.Tensor
    prompt_hidden_PD: torch.Tensor
    bridge_slots_M: torch.Tensor
    bridge_MD: torch.Tensor
    embeddings_VD: torch.Tensor
    captions: tuple[CapturedCaption, ...]


@dataclass(frozen=True)
class TrainingExample:
    """One caption with its prompt. `hidden_LD` are final-norm states of the text positions but the last: the target's
    distributions follow from them through lm_head, exactly and for any vocabulary, so no log-probabilities are kept.
    `is_caption_L` marks the generated tokens; the visual part is that of `CapturedWindow`.
    """

    token_ids_L: torch.Tensor
    slots_L: torch.Tensor
    hidden_TD: torch.Tensor
    is_caption_L: torch.Tensor
    bridge_slots_M: torch.Tensor
    bridge_MD: torch.Tensor
    embeddings_VD: torch.Tensor

    def visual(self, source: VisualSource) -> tuple[torch.Tensor, torch.Tensor]:
        """Visual slots, and what is kept of them."""
        if source == "bridge":
            return self.bridge_slots_M, self.bridge_MD
        is_text_S = torch.zeros(int(self.slots_L[-1]) + 1, dtype=torch.bool)
        is_text_S[self.slots_L] = True
        return (~is_text_S).nonzero()[:, 0], self.embeddings_VD


def training_example(window: CapturedWindow, number: int) -> TrainingExample:
    """Caption `number` of a captured window."""
    caption = window.captions[number]
    length = len(caption.token_ids_C)
    is_caption_L = torch.arange(len(window.prompt_ids_P) + length) >= len(window.prompt_ids_P)
    behind_C = torch.arange(length) + window.prompt_slots_P[-1] + 1
    return TrainingExample(
        token_ids_L=torch.cat([window.prompt_ids_P, caption.token_ids_C]).long(),
        slots_L=torch.cat([window.prompt_slots_P, behind_C]).long(),
        hidden_TD=torch.cat([window.prompt_hidden_PD, caption.hidden_CD]),
        is_caption_L=is_caption_L,
        bridge_slots_M=window.bridge_slots_M.long(),
        bridge_MD=window.bridge_MD,
        embeddings_VD=window.embeddings_VD,
    )
