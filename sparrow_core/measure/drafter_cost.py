"""Cost of drafting by visual length: bytes of the drafter's own KV cache, time of its prefill and of one proposal.

None of them should grow with the video, unless the drafter sees it (`DrafterConfig.sees`).

Shape letters: L layers, K keys and values, G KV heads, S slots of a sequence, T text tokens, d head size.
"""

import time
from dataclasses import dataclass
from statistics import median

import torch

from sparrow_core.config import DraftConfig
from sparrow_core.decoding.drafter import DraftContext, DraftJob
from sparrow_core.decoding.prefill import first_token, prefill
from sparrow_core.drafters.sparrow import SparrowDrafter
from sparrow_core.types import Request

NUM_PROPOSALS = 30


@dataclass(frozen=True)
class DrafterCost:
    """After prefill of one window: KV cache of target and drafter in bytes, the drafter's prefill (`open_ms`) and one
    proposal (`propose_ms`) in milliseconds."""

    visual_tokens: int
    text_tokens: int
    target_cache_bytes: int
    drafter_cache_bytes: int
    open_ms: float
    propose_ms: float


@torch.inference_mode()
def measure_drafter_cost(drafter: SparrowDrafter, request: Request, shape: DraftConfig) -> DrafterCost:
    """Prefill a window, then time the drafter's prefill and its first proposal `NUM_PROPOSALS` times; medians."""
    target = drafter.target
    prompt = target.build_prompt(request.messages)
    info = target.info
    num_tokens = prompt.token_ids_S.numel()
    cache = info.cache_shape.cache(num_tokens)
    context = prefill(target, prompt, target.embed(prompt), cache, needs=drafter.visual_needs)
    draft_context = DraftContext(first_token(target, context, request.sampling), 1, 0, request.sampling)
    opening, proposing = [], []
    for _ in range(NUM_PROPOSALS):
        began = time.perf_counter()
        session = drafter.open(context, request.max_new_tokens)
        opened = time.perf_counter()
        drafter.propose([DraftJob(session, draft_context, shape)])
        opening.append(opened - began)
        proposing.append(time.perf_counter() - opened)
    return DrafterCost(
        visual_tokens=prompt.num_visual_tokens,
        text_tokens=context.token_ids_T.numel(),
        target_cache_bytes=cache.data_LKGSd.numel() * cache.data_LKGSd.element_size(),
        drafter_cache_bytes=session.cache_bytes,
        open_ms=1000 * median(opening),
        propose_ms=1000 * median(proposing),
    )
