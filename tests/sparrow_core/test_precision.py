"""Precision: the error of our bfloat16 logits against float64, compared with the library's own bfloat16 logits.

Two paths can agree and both be wrong. On the demo target, teacher-forced on its own caption, by the passes that
decoding uses.
"""

from collections import defaultdict
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from demo.windows import DemoWindows
from sparrow_core.decoding.autoregressive import decode_one, generate_autoregressively
from sparrow_core.decoding.prefill import prefill
from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.targets.loading import load_target
from sparrow_core.targets.reference import load_reference, model_inputs
from sparrow_core.types import Sampling

pytestmark = pytest.mark.slow

TARGET = "demo/weights/target"
NUM_WINDOWS, NUM_TOKENS = 3, 30
CPU = torch.device("cpu")


@torch.inference_mode()
def our_logits(target: TargetModel, prompt: Prompt, caption: tuple[int, ...]) -> torch.Tensor:
    """Logits [C, V] after each token of the caption, passed one by one as in the autoregressive loop."""
    embedded = target.embed(prompt)
    cache = target.info.cache_shape.cache(prompt.token_ids_S.numel() + len(caption))
    prefill(target, prompt, embedded, cache)
    hidden = [decode_one(target, cache, embedded.position_offset, token) for token in caption]
    return target.logits(torch.cat(hidden)).double()


@torch.inference_mode()
def library_logits(model: PreTrainedModel, prompt: Prompt, caption: tuple[int, ...]) -> torch.Tensor:
    """The same logits from one pass of the library's model."""
    library: Any = model
    inputs = model_inputs(prompt, model, caption)
    return library(**inputs, logits_to_keep=len(caption)).logits[0].double()


def test_bfloat16_is_no_worse_than_the_library() -> None:
    ours = {dtype: load_target(TARGET, device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16")}
    library = {dtype: load_reference(TARGET, device=CPU, dtype=dtype) for dtype in (torch.float64, torch.bfloat16)}
    squares = defaultdict(list)
    for index in range(NUM_WINDOWS):
        request = DemoWindows("heldout", (64,), 90_000).request(index, max_new_tokens=NUM_TOKENS)
        prompt = ours["float32"].build_prompt(request.messages)
        caption = generate_autoregressively(ours["float32"], prompt, Sampling(), NUM_TOKENS)
        found = {dtype: our_logits(target, prompt, caption) for dtype, target in ours.items()}
        found["library's bfloat16"] = library_logits(library[torch.bfloat16], prompt, caption)
        exact_CV = library_logits(library[torch.float64], prompt, caption)
        for name, logits_CV in found.items():
            squares[name].append((logits_CV - exact_CV).square().mean().item())
    errors = {name: fmean(values) ** 0.5 for name, values in squares.items()}
    assert errors["float32"] < 1e-4, errors
    assert errors["bfloat16"] <= 1.2 * errors["library's bfloat16"], errors
