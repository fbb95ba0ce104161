"""Prefill: write a prompt into the KV cache, chunk by chunk, and choose the first token, which follows from it.

Shape letters: A axes of a position, D hidden size, G KV heads, K 2: keys and values, L layers, R rows of a pass (here a
chunk), S slots of a sequence, T text tokens, V vocabulary, d head size.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple

import torch

from sparrow_core.config import PrefillConfig
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafter import PromptContext, VisualContext, VisualNeeds
from sparrow_core.decoding.sampling import choose
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, SequenceRows, TargetModel, TargetPass, run_to_end
from sparrow_core.errors import ConfigError
from sparrow_core.types import Sampling

PREFILL = PrefillConfig()


class ChunkPass(NamedTuple):
    """The pass over one chunk of a prompt, and which of its rows are text (bool [R])."""

    is_text_R: torch.Tensor
    result: TargetPass


def prefill(
    target: TargetModel,
    prompt: Prompt,
    embedded: EmbeddedPrompt,
    cache: KVCache,
    config: PrefillConfig = PREFILL,
    needs: VisualNeeds | None = None,
) -> PromptContext:
    """Fill `cache` with the prompt and seal it; return its text tokens with their final-norm hidden states.

    With `needs` the result holds the visual context, too. Raises ConfigError if the prompt has no text token, or if
    `cache` is too small for it.
    """
    return run_to_end(prefill_by_layer(target, prompt, embedded, cache, config, needs))


def prefill_by_layer(
    target: TargetModel,
    prompt: Prompt,
    embedded: EmbeddedPrompt,
    cache: KVCache,
    config: PrefillConfig = PREFILL,
    needs: VisualNeeds | None = None,
) -> Generator[None, None, PromptContext]:
    """`prefill` with a pause after every layer."""
    asked = needs or VisualNeeds()
    text_hidden: list[torch.Tensor] = []
    taps: dict[int, list[torch.Tensor]] = {layer: [] for layer in asked.tap_layers}
    text_taps: dict[int, list[torch.Tensor]] = {layer: [] for layer in asked.text_tap_layers}
    for chunk in prefill_passes(target, prompt, embedded, cache, config, (*taps, *text_taps)):
        if chunk is not None:
            text_hidden.append(chunk.result.hidden_RD[chunk.is_text_R])
            for layer, parts in taps.items():
                parts.append(chunk.result.taps[layer])
            for layer, parts in text_taps.items():
                parts.append(chunk.result.taps[layer][chunk.is_text_R])
        yield
    cache.seal_prompt()
    hidden_TD = torch.cat(text_hidden)
    visual = None
    if needs:
        visual = VisualContext(
            prompt.is_text_S,
            embedded,
            cache.data_LKGSd[:, 0, :, : cache.length],
            {layer: torch.cat(parts) for layer, parts in taps.items()},
            {layer: torch.cat(parts) for layer, parts in text_taps.items()},
        )
    return PromptContext(prompt.token_ids_S[text_slots(prompt.is_text_S)].to(hidden_TD.device), hidden_TD, visual)


def prefill_passes(
    target: TargetModel,
    prompt: Prompt,
    embedded: EmbeddedPrompt,
    cache: KVCache,
    config: PrefillConfig = PREFILL,
    tap_layers: tuple[int, ...] = (),
) -> Iterator[ChunkPass | None]:
    """Fill `cache` chunk by chunk. Yields None after each layer, and the pass at the end of each chunk.

    Chunk boundaries do not depend on what other work is done between two steps.
    """
    device = embedded.embeddings_SD.device
    num_tokens = prompt.token_ids_S.numel()
    for start in range(0, num_tokens, config.chunk_tokens):
        window = slice(start, min(start + config.chunk_tokens, num_tokens))
        rows = SequenceRows(cache, window.stop - start)
        embeddings_RD, positions_AR = embedded.embeddings_SD[window], embedded.positions_AS[:, window]
        result = yield from target.forward_by_layer(embeddings_RD, positions_AR, (rows,), tap_layers)
        cache.commit(list(range(rows.num_rows)))
        yield ChunkPass(prompt.is_text_S[window].to(device), result)


def first_token(target: TargetModel, context: PromptContext, sampling: Sampling) -> int:
    """The first generated token, which the prompt's last row chooses."""
    logits_1V = target.logits(context.hidden_TD[-1:])
    return int(choose(logits_1V, sampling, torch.zeros(1, dtype=torch.int64, device=logits_1V.device)))


def text_slots(is_text_S: torch.Tensor) -> torch.Tensor:
    """Slots of the text tokens, rising: int64 [T]. Raises ConfigError if there is none."""
    slots_T = is_text_S.nonzero()[:, 0]
    if slots_T.numel() == 0:
        raise ConfigError("the prompt has no text token; a drafter needs at least one to anchor on")
    return slots_T
