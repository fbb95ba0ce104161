"""Takes down what the target computes while the engine writes a caption: what distillation learns from.

The states are those of the engine's own passes, so that nothing is computed twice, and a capture can be drafted like
any other completion. Owns what is kept of a window. It knows neither storage nor who asks.

Shape letters: P text tokens of a prompt, C caption tokens, M kept visual tokens, V all visual tokens, D hidden size.
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
    """m*, counted from 1: the configured layer, or half of the target's layers (the paper's choice).

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
    """How the captions of window `index` are chosen: each its own seed, some greedy (`greedy_share`)."""
    draws = np.random.default_rng((config.seed, index)).random(config.captions_per_window)
    first_seed = (config.seed * 1_000_003 + index) * config.captions_per_window
    return [
        Sampling(temperature=0.0 if draw < config.greedy_share else config.temperature, seed=first_seed + number)
        for number, draw in enumerate(draws)
    ]


class CaptionRecorder:
    """A `Recording` of one completion."""

    def __init__(self, layer: int, config: CaptureConfig) -> None:
        self.visual_needs = VisualNeeds((layer,))
        self._layer, self._config = layer, config
        self._states: list[torch.Tensor] = []

    def begin(self, context: PromptContext) -> None:
        self._context = context

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        self._states.append(hidden_RD)

    def caption(self, token_ids: Sequence[int]) -> CapturedCaption:
        """What was taken down of a completion that ended up as `token_ids`."""
        hidden_SD = torch.cat([self._context.hidden_TD[:0], *self._states]).cpu()
        return CapturedCaption(torch.tensor(token_ids), hidden_SD[: len(token_ids) - 1])

    def window(self, captions: Sequence[CapturedCaption]) -> CapturedWindow:
        """The prompt, with these captions of it."""
        context, config = self._context, self._config
        visual = context.visual
        assert visual is not None, "the engine gives what `visual_needs` asks for"
        slots_V = (~visual.is_text_S).nonzero()[:, 0]
        kept_M = slots_V[_evenly(len(slots_V), config.max_bridge_tokens)]
        slots_of_embeddings = slots_V if config.keep_embeddings else slots_V[:0]
        device = visual.embedded.embeddings_SD.device
        return CapturedWindow(
            prompt_ids_P=context.token_ids_T.cpu(),
            prompt_slots_P=text_slots(visual.is_text_S).cpu(),
            prompt_hidden_PD=context.hidden_TD.cpu(),
            bridge_slots_M=kept_M.cpu(),
            bridge_MD=visual.taps[self._layer][kept_M.to(device)].cpu(),
            embeddings_VD=visual.embedded.embeddings_SD[slots_of_embeddings.to(device)].cpu(),
            captions=tuple(captions),
        )


def _evenly(length: int, limit: int) -> torch.Tensor:
    """At most `limit` places out of `length`, evenly spread and in order."""
    if length <= limit:
        return torch.arange(length)
    return torch.linspace(0, length - 1, limit).round().long()
