"""The reference: transformers' own model, attention, cache and `generate`, which the engine is compared with.

It shares no code with the engine except the prompt, so that equality with it means something.

Shape letters: C tokens of a caption, D hidden size, M visual tokens, S slots of a sequence, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.generation import BaseStreamer

from sparrow_core.decoding.target import Prompt

ReferenceModel = PreTrainedModel


@dataclass(frozen=True)
class ReferenceResult:
    """New token ids up to and including the stop token; seconds to the first one and from the first to the last."""

    token_ids: tuple[int, ...]
    first_token_s: float
    decode_s: float


def load_reference(source: str, *, device: torch.device, dtype: torch.dtype, attention: str = "sdpa") -> ReferenceModel:
    """The checkpoint as transformers loads it, by default with sdpa attention."""
    model: Any = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, attn_implementation=attention)
    return model.to(device).eval()


@torch.inference_mode()
def generate(
    reference: ReferenceModel, prompt: Prompt, max_new_tokens: int, prompt_lookup_tokens: int | None = None
) -> ReferenceResult:
    """Greedy `generate` on a prompt; with `prompt_lookup_tokens`, the library's own prompt lookup decoding."""
    inputs = model_inputs(prompt, reference)
    clock = _Clock()
    generator: Any = reference
    began = time.perf_counter()
    lookup: dict[str, Any] = {}
    if prompt_lookup_tokens:
        # Copied tokens may be visual placeholders, on which the library's own forward pass fails.
        placeholders = [reference.config.image_token_id, reference.config.video_token_id]
        lookup = {"prompt_lookup_num_tokens": prompt_lookup_tokens, "suppress_tokens": placeholders}
    output = generator.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, streamer=clock, **lookup)
    ended = time.perf_counter()
    token_ids = tuple(output[0, prompt.token_ids_S.numel() :].tolist())
    return ReferenceResult(token_ids, clock.first_token - began, ended - clock.first_token)


@torch.inference_mode()
def top_two_gap(reference: ReferenceModel, prompt: Prompt, token_ids: tuple[int, ...]) -> float:
    """Difference of the two largest logits after a prompt and these generated tokens."""
    model: Any = reference
    logits_V = model(**model_inputs(prompt, reference, token_ids), logits_to_keep=1).logits[0, -1]
    largest, second = logits_V.topk(2).values.tolist()
    return largest - second


@contextmanager
def hiding_visual(reference: ReferenceModel, prompt: Prompt, layer: int) -> Iterator[None]:
    """Hide the prompt's visual tokens from decoder layer `layer` (counted from 1) on, as if they were removed there.

    No token attends to them in these layers. The model must be loaded with eager attention, which always has a mask.
    """
    hidden_S = ~prompt.is_text_S.to(reference.device)

    def hide(module: Any, positional: Any, named: dict[str, Any]) -> Any:
        mask = named["attention_mask"].clone()
        mask[..., : len(hidden_S)].masked_fill_(hidden_S, torch.finfo(mask.dtype).min)
        return positional, named | {"attention_mask": mask}

    model: Any = reference
    layers = model.model.language_model.layers[layer - 1 :]
    hooks = [each.register_forward_pre_hook(hide, with_kwargs=True) for each in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def visual_cosines(reference: ReferenceModel, prompt: Prompt) -> list[float]:
    """For each decoder layer, the mean cosine between its inputs at the visual tokens and their embeddings."""
    model: Any = reference
    hidden = model(**model_inputs(prompt, reference), output_hidden_states=True, logits_to_keep=1).hidden_states
    visual_M = (~prompt.is_text_S).nonzero()[:, 0].to(reference.device)
    embeddings_MD = hidden[0][0, visual_M]
    return [float(cosine_similarity(inputs[0, visual_M], embeddings_MD, dim=-1).mean()) for inputs in hidden[:-1]]


def model_inputs(prompt: Prompt, reference: ReferenceModel, token_ids: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """A prompt and tokens generated after it, as the library's own processor would prepare them for its model."""
    device, config = reference.device, reference.config
    generated_C = torch.tensor(token_ids, dtype=torch.int64)
    ids_1S = torch.cat([prompt.token_ids_S, generated_C])[None].to(device)
    inputs = {"input_ids": ids_1S, "attention_mask": torch.ones_like(ids_1S)}
    if config.model_type == "llava_onevision":
        if prompt.visuals:
            videos = torch.stack([visual.patches for visual in prompt.visuals])
            inputs["pixel_values_videos"] = videos.to(device, reference.dtype)
        return inputs
    types_1S = torch.zeros_like(ids_1S, dtype=torch.int32)
    types_1S[ids_1S == config.image_token_id] = 1
    types_1S[ids_1S == config.video_token_id] = 2
    inputs["mm_token_type_ids"] = types_1S
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        visuals = [visual for visual in prompt.visuals if visual.kind == kind]
        if visuals:
            inputs[pixels] = torch.cat([visual.patches for visual in visuals]).to(device, reference.dtype)
            inputs[f"{kind}_grid_thw"] = torch.tensor([visual.grid_thw for visual in visuals], device=device)
        if visuals and kind == "video":
            inputs["second_per_grid_ts"] = torch.tensor([v.second_per_grid_s for v in visuals], device=device)
    return inputs


class _Clock(BaseStreamer):
    """Records when `generate` hands out its first new token; the call before that hands out the prompt."""

    def __init__(self) -> None:
        self._calls = 0
        self.first_token = 0.0

    def put(self, value: torch.Tensor) -> None:
        self._calls += 1
        if self._calls == 2:
            self.first_token = time.perf_counter()

    def end(self) -> None:
        pass
