"""From a prompt to what distillation keeps of it: the target writes captions of its own, then reads them with taps.

Owns on-policy sampling and the passes that yield states. It knows neither storage nor who asks.

Shape letters: S prompt slots, R rows of one pass, A position axes, L text tokens, C caption tokens, M visual tokens,
P pending cache slots, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparrow_core.config import CaptureConfig
from sparrow_core.decoding.rounds import prefill_passes
from sparrow_core.decoding.sampling import choose
from sparrow_core.decoding.target import Prompt, SequenceRows, TargetModel
from sparrow_core.distill.states import WindowStates
from sparrow_core.distill.store import StoreHeader, TargetTables
from sparrow_core.types import Sampling


def target_tables(target: TargetModel) -> TargetTables:
    """Embedding and lm_head as plain matrices, read off through the target's own functions."""
    info = target.info
    with torch.no_grad():
        embed_tokens_VD = target.embed_tokens(torch.arange(info.vocab_size, device=info.device))
        lm_head_DV = target.logits(torch.eye(info.hidden_size, device=info.device, dtype=info.dtype))
    return TargetTables(embed_tokens_VD.float().cpu(), lm_head_DV.T.float().cpu().contiguous())


def bridge_layer(target: TargetModel, config: CaptureConfig) -> int:
    """m*, counted from 1: the configured layer, or half of the target's layers (the paper's choice)."""
    return config.bridge_layer or target.info.num_layers // 2


def store_header(target: TargetModel, config: CaptureConfig, settings: str) -> StoreHeader:
    """What identifies a capture from `target`; `settings` is a digest of everything that decides the windows."""
    return StoreHeader(
        fingerprint=target.info.fingerprint,
        tokenizer_hash=target.info.tokenizer_hash,
        hidden_size=target.info.hidden_size,
        vocab_size=target.info.vocab_size,
        bridge_layer=bridge_layer(target, config),
        settings=settings,
    )


def window_samplings(config: CaptureConfig, index: int) -> list[Sampling]:
    """How the captions of window `index` are chosen: each its own seed, some greedy (`greedy_share`)."""
    draws = np.random.default_rng((config.seed, index)).random(config.captions_per_window)
    first_seed = (config.seed * 1_000_003 + index) * config.captions_per_window
    return [
        Sampling(temperature=0.0 if draw < config.greedy_share else config.temperature, seed=first_seed + number)
        for number, draw in enumerate(draws)
    ]


@torch.inference_mode()
def capture_window(target: TargetModel, prompt: Prompt, index: int, config: CaptureConfig) -> list[WindowStates]:
    """Let the target caption `prompt` several times, then keep its states of the prompt and of each caption."""
    samplings = window_samplings(config, index)
    reading = PromptReading(target, prompt, bridge_layer(target, config), len(samplings) * config.max_new_tokens)
    captions = sample_captions(reading, samplings, config.max_new_tokens)
    return [reading.with_caption(caption, config.max_bridge_tokens) for caption in captions]


@dataclass(frozen=True)
class _TextPart:
    """Text positions of a prompt with their states, and states of one layer at its visual positions."""

    token_ids_L: torch.Tensor
    states_LD: torch.Tensor
    visual_MD: torch.Tensor


class PromptReading:
    """A prompt in a cache with `room` slots behind it, from which any number of captions can be written or read."""

    def __init__(self, target: TargetModel, prompt: Prompt, tap_layer: int, room: int) -> None:
        info = target.info
        embedded = target.embed(prompt)
        num_tokens = prompt.token_ids_S.numel()
        self.target = target
        self.position_offset = embedded.position_offset
        self.cache = info.cache_shape.cache(num_tokens + room)
        states, visual = [], []
        for chunk in prefill_passes(target, prompt, embedded, self.cache, tap_layers=(tap_layer,)):
            if chunk is not None:
                states.append(chunk.result.states_RD[chunk.is_text_R])
                visual.append(chunk.result.taps[tap_layer][~chunk.is_text_R])
        token_ids_L = prompt.token_ids_S[prompt.is_text_S].to(info.device)
        self._part = _TextPart(token_ids_L, torch.cat(states), torch.cat(visual))

    @property
    def last_state_1D(self) -> torch.Tensor:
        return self._part.states_LD[-1:]

    def positions(self, first: int, num_rows: int) -> torch.Tensor:
        """Positions [A, num_rows] of the generated tokens from number `first` on."""
        info = self.target.info
        places = torch.arange(first, first + num_rows, device=info.device) + self.cache.length + self.position_offset
        return places.expand(info.position_axes, -1)

    def with_caption(self, caption_ids: Sequence[int], max_bridge_tokens: int) -> WindowStates:
        """One pass over a caption; the cache is left as it was."""
        info, part = self.target.info, self._part
        caption_C = torch.tensor(caption_ids, device=info.device)
        rows = SequenceRows(self.cache, len(caption_C))
        positions_AC = self.positions(0, len(caption_C))
        result = self.target.forward(self.target.embed_tokens(caption_C), positions_AC, (rows,))
        self.cache.rollback()
        token_ids_L = torch.cat([part.token_ids_L, caption_C])
        return WindowStates(
            token_ids_L=token_ids_L.cpu(),
            states_LD=torch.cat([part.states_LD, result.states_RD]).cpu(),
            is_caption_L=torch.arange(len(token_ids_L)) >= len(part.token_ids_L),
            bridge_MD=_evenly(part.visual_MD, max_bridge_tokens).cpu(),
        )


def sample_captions(
    reading: PromptReading, samplings: Sequence[Sampling], max_new_tokens: int
) -> list[tuple[int, ...]]:
    """One caption per entry of `samplings`, written side by side over the prompt that they share.

    Each pass feeds one row per unfinished caption; a row sees the prompt and the pending slots of its own caption, so
    caption k is what the one-row loop would write with `samplings[k]`, up to rounding.
    """
    target, cache = reading.target, reading.cache
    device, stops = target.info.device, target.info.stop_token_ids
    logits_1V = target.logits(reading.last_state_1D)
    captions = [[_chosen(logits_1V, sampling, 0)] for sampling in samplings]
    slots: list[list[int]] = [[] for _ in samplings]
    for length in range(1, max_new_tokens):
        unfinished = [number for number, caption in enumerate(captions) if caption[-1] not in stops]
        if not unfinished:
            break
        visible_RP = torch.zeros(len(unfinished), cache.pending + len(unfinished), dtype=torch.bool)
        for row, number in enumerate(unfinished):
            slots[number].append(cache.pending + row)
            visible_RP[row, slots[number]] = True
        ids_R = torch.tensor([captions[number][-1] for number in unfinished], device=device)
        positions_AR = reading.positions(length - 1, 1).expand(-1, len(unfinished))
        rows = SequenceRows(cache, len(unfinished), visible_RP.to(device))
        states_RD = target.forward(target.embed_tokens(ids_R), positions_AR, (rows,)).states_RD
        logits_RV = target.logits(states_RD)
        for row, number in enumerate(unfinished):
            captions[number].append(_chosen(logits_RV[row : row + 1], samplings[number], length))
    cache.rollback()
    return [tuple(caption) for caption in captions]


def _chosen(logits_1V: torch.Tensor, sampling: Sampling, position: int) -> int:
    return int(choose(logits_1V, sampling, torch.tensor([position], device=logits_1V.device)))


def _evenly(states_MD: torch.Tensor, limit: int) -> torch.Tensor:
    """At most `limit` rows, evenly spread and in order."""
    if len(states_MD) <= limit:
        return states_MD
    return states_MD[torch.linspace(0, len(states_MD) - 1, limit).round().long()]
