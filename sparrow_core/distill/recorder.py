"""Records hidden states while the engine writes a caption, for distillation, and decides what is kept of a window.

The hidden states are those of the engine's own passes, so that nothing is computed twice and a captured caption can be
written by speculative decoding like any other. Knows neither storage nor who asks.

Shape letters: C tokens of a caption, D hidden size, M visual tokens, R rows of a pass, T text tokens of the prompt,
U visual tokens whose bridge-layer states are kept.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sparrow_core.config import CaptureConfig
from sparrow_core.decoding.drafter import PromptContext, VisualNeeds
from sparrow_core.decoding.prefill import text_slots
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.distill.hidden_states import CapturedCaption, CapturedWindow
from sparrow_core.errors import CheckpointError
from sparrow_core.types import Sampling


def bridge_layer(info: TargetInfo, config: CaptureConfig) -> int:
    """m*, counted from 1: the configured layer, or else the one at half of the target's depth (the paper's choice).

    Raises CheckpointError for a layer that the target does not have.
    """
    if config.bridge_layer is None:
        return info.num_layers // 2
    if not 1 <= config.bridge_layer <= info.num_layers:
        raise CheckpointError(
            f"bridge_layer={config.bridge_layer}, but {info.name!r} has layers 1 to {info.num_layers}; "
            "null takes the middle one"
        )
    return config.bridge_layer


def capture_samplings(config: CaptureConfig, index: int) -> list[Sampling]:
    """How each caption of window `index` is sampled: with its own seed; `greedy_share` of all captions greedily."""
    draws = np.random.default_rng((config.seed, index)).random(config.captions_per_window)
    first_seed = (config.seed * 1_000_003 + index) * config.captions_per_window
    return [
        Sampling(temperature=0.0 if draw < config.greedy_share else config.temperature, seed=first_seed + number)
        for number, draw in enumerate(draws)
    ]


class CaptionRecorder:
    """A `Recording` of one completion. `layer` is the bridge layer."""

    def __init__(self, layer: int, config: CaptureConfig) -> None:
        self.visual_needs = VisualNeeds((layer,))
        self._layer, self._config = layer, config
        self._hidden: list[torch.Tensor] = []

    def begin(self, context: PromptContext) -> None:
        self._context = context

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        self._hidden.append(hidden_RD)

    def caption(self, token_ids: Sequence[int]) -> CapturedCaption:
        """The completion as `token_ids`, which may be shorter than what was recorded, with its hidden states."""
        hidden_RD = torch.cat([self._context.hidden_TD[:0], *self._hidden]).cpu()
        return CapturedCaption(torch.tensor(token_ids), hidden_RD[: len(token_ids) - 1])

    def window(self, captions: Sequence[CapturedCaption]) -> CapturedWindow:
        """The prompt with these captions of it."""
        context, config = self._context, self._config
        visual = context.visual
        assert visual is not None, "the engine gives what `visual_needs` asks for"
        slots_M = (~visual.is_text_S).nonzero()[:, 0]
        kept_U = slots_M[_evenly(len(slots_M), config.max_bridge_tokens)]
        slots_of_embeddings = slots_M if config.keep_embeddings else slots_M[:0]
        device = visual.embedded.embeddings_SD.device
        return CapturedWindow(
            prompt_ids_T=context.token_ids_T.cpu(),
            prompt_slots_T=text_slots(visual.is_text_S).cpu(),
            prompt_hidden_TD=context.hidden_TD.cpu(),
            bridge_slots_U=kept_U.cpu(),
            bridge_UD=visual.taps[self._layer][kept_U.to(device)].cpu(),
            embeddings_MD=visual.embedded.embeddings_SD[slots_of_embeddings.to(device)].cpu(),
            captions=tuple(captions),
        )


def _evenly(length: int, limit: int) -> torch.Tensor:
    """At most `limit` indices below `length`, evenly spread and in order."""
    if length <= limit:
        return torch.arange(length)
    return torch.linspace(0, length - 1, limit).round().long()
