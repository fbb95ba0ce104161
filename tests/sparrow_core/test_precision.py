"""Two paths can agree and both be wrong: logits in bfloat16 against float64, beside the library's own in bfloat16.

On the demo target, teacher-forced on its own caption, by the passes that decoding uses.
"""

from statistics import fmean
from typing import Any

import torch

from demo.windows import DemoWindows
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.rounds import prefill, read_alone
from sparrow_core.decoding.target import Prompt
from sparrow_core.models.loading import load_target
from sparrow_core.models.reference import load_reference, model_inputs
from sparrow_core.types import Sampling

TARGET = "demo/weights/target"
NUM_WINDOWS, NUM_TOKENS = 3, 30
CPU = torch.device("cpu")


@torch.inference_mode()
def our_logits(prompt: Prompt, caption: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Logits [N, V] after each token of the caption, read one by one as the autoregressive loop does."""
    target = load_target(TARGET, device="cpu", dtype=dtype)
    embedded = target.embed(prompt)
    cache = target.info.cache_shape.cache(prompt.token_ids_S.numel() + len(caption))
    prefill(target, prompt, embedded, cache)
    states = [read_alone(target, cache, embedded.position_offset, token) for token in caption]
    return target.logits(torch.cat(states)).double()


@torch.inference_mode()
def library_logits(prompt: Prompt, caption: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The same in one pass of the library's model."""
    model: Any = load_reference(TARGET, device=CPU, dtype=dtype)
    inputs = model_inputs(prompt, model)
    caption_1N = torch.tensor([caption])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], caption_1N], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    no_visual_1N = torch.zeros_like(caption_1N, dtype=torch.int32)
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], no_visual_1N], 1)
    return model(**inputs, logits_to_keep=len(caption)).logits[0].double()


def test_bfloat16_is_no_worse_than_the_library() -> None:
    target = load_target(TARGET, device="cpu", dtype="float32")
    squares: dict[str, list[float]] = {"float32": [], "bfloat16": [], "library's bfloat16": []}
    for index in range(NUM_WINDOWS):
        request = DemoWindows("heldout", (64,), 90_000).request(index, max_new_tokens=NUM_TOKENS)
        prompt = target.build_prompt(request.messages)
        caption = generate_autoregressively(target, prompt, Sampling(), NUM_TOKENS)
        exact_NV = library_logits(prompt, caption, torch.float64)
        found = (
            our_logits(prompt, caption, "float32"),
            our_logits(prompt, caption, "bfloat16"),
            library_logits(prompt, caption, torch.bfloat16),
        )
        for name, logits_NV in zip(squares, found, strict=True):
            squares[name].append((logits_NV - exact_NV).square().mean().item())
    errors = {name: fmean(values) ** 0.5 for name, values in squares.items()}
    assert errors["float32"] < 1e-4, errors
    assert errors["bfloat16"] <= 1.2 * errors["library's bfloat16"], errors
