"""Whether this machine's passes are batch-invariant, measured when an engine starts (see `decoding.near_ties`).

Shape letters: A axes of a position, D hidden size, G KV heads, K 2: keys and values, L layers, R rows of a pass, S
slots of a sequence, V vocabulary, d head size.
"""

import torch

from sparrow_core.decoding.autoregressive import decode_one
from sparrow_core.decoding.target import SequenceRows, TargetModel

ROWS = 24
CONTEXT = 300


@torch.inference_mode()
def batch_deviation(target: TargetModel) -> float:
    """Largest difference between a row's logits alone and among other rows, over a chain after a blank context."""
    info = target.info
    together, alone = (info.cache_shape.cache(CONTEXT + ROWS) for _ in range(2))
    for cache in (together, alone):
        cache.data_LKGSd.fill_(0.1)
        cache.length = CONTEXT
        cache.seal_prompt()
    ids_R = torch.arange(ROWS, device=info.device) % info.vocab_size
    positions_AR = torch.arange(CONTEXT, CONTEXT + ROWS, device=info.device).expand(info.position_axes, -1)
    rows = (SequenceRows(together, ROWS),)
    among_RV = target.logits(target.forward(target.embed_tokens(ids_R), positions_AR, rows).hidden_RD)
    alone_RV = torch.cat([target.logits(decode_one(target, alone, 0, token)) for token in ids_R.tolist()])
    return float((alone_RV - among_RV).abs().max())
