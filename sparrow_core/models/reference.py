"""The judge from outside: transformers' own model, attention, cache and `generate`, loaded on their own.

Shares no code with the engine but the prompt, so that equality with it means something.
"""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from sparrow_core.decoding.target import Prompt


def load_reference(source: str, *, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The checkpoint as transformers loads it by default (sdpa attention)."""
    model: Any = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
    return model.to(device).eval()


@torch.inference_mode()
def generate(reference: PreTrainedModel, prompt: Prompt, max_new_tokens: int) -> tuple[int, ...]:
    """Greedy `generate` on a prompt: new token ids, up to and with the stop token."""
    inputs = model_inputs(prompt, reference)
    generator: Any = reference
    output = generator.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    return tuple(output[0, prompt.token_ids_S.numel() :].tolist())


def model_inputs(prompt: Prompt, reference: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A prompt as the library's processor would have prepared it."""
    device, config = reference.device, reference.config
    ids_1S = prompt.token_ids_S[None].to(device)
    types_1S = torch.zeros_like(ids_1S, dtype=torch.int32)
    types_1S[ids_1S == config.image_token_id] = 1
    types_1S[ids_1S == config.video_token_id] = 2
    inputs = {"input_ids": ids_1S, "attention_mask": torch.ones_like(ids_1S), "mm_token_type_ids": types_1S}
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        visuals = [visual for visual in prompt.visuals if visual.kind == kind]
        if visuals:
            inputs[pixels] = torch.cat([visual.patches for visual in visuals]).to(device, reference.dtype)
            inputs[f"{kind}_grid_thw"] = torch.tensor([visual.grid_thw for visual in visuals], device=device)
        if visuals and kind == "video":
            inputs["second_per_grid_ts"] = torch.tensor([v.second_per_grid_s for v in visuals], device=device)
    return inputs
