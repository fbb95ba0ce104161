"""Whether this machine's passes are row-invariant, measured when an engine starts (see `decoding.near_ties`)."""

import torch

from sparrow_core.decoding.rounds import decode_one
from sparrow_core.decoding.target import SequenceRows, TargetModel

ROWS = 24
CONTEXT = 300


@torch.inference_mode()
def batch_deviation(target: TargetModel) -> float:
    """Largest difference between logits of a row alone and among others, over a chain behind a blank context."""
    info = target.info
    together, alone = (info.cache_shape.cache(CONTEXT + ROWS) for _ in range(2))
    for cache in (together, alone):
        cache.data_LKGSD.fill_(0.1)
        cache.length = CONTEXT
        cache.seal_prompt()
    ids_R = torch.arange(ROWS, device=info.device) % info.vocab_size
    positions_AR = torch.arange(CONTEXT, CONTEXT + ROWS, device=info.device).expand(info.position_axes, -1)
    rows = (SequenceRows(together, ROWS),)
    among_RV = target.logits(target.forward(target.embed_tokens(ids_R), positions_AR, rows).hidden_RD)
    alone_RV = torch.cat([target.logits(decode_one(target, alone, 0, token)) for token in ids_R.tolist()])
    return float((alone_RV - among_RV).abs().max())
