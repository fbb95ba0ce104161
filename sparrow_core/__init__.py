"""The Sparrow method: targets, drafters, decoding, engine, distillation, measurement. Never imports Ray.

Tensor names end in their shape, one letter an axis: `queries_HRd` is [query heads, rows, head size]. A letter has one
meaning in the whole package; each module lists those that it uses.

    A  axes of a position: 1 for plain RoPE, 3 for M-RoPE
    B  rows of a training batch
    C  tokens of a caption
    D  hidden size                         d  head size
    E  text tokens of a training example: its prompt and its caption
    F  nodes of one level of a draft
    G  KV heads                            h  query heads of one KV head
    H  query heads
    I  intermediate size of an MLP
    J  sequences drafted for together
    K  2: keys and values
    L  layers
    M  visual tokens
    N  nodes of a draft
    O  slots of one block of keys
    P  pending slots of a cache: written, neither committed nor dropped
    Q  query rows folded with the heads of their group
    R  rows of a pass
    S  slots of a sequence
    T  text tokens; what a drafter reads, so without visual tokens
    U  visual tokens whose bridge-layer states are kept
    V  vocabulary
    W  candidates kept of one row: children of a node, ranked tokens
    X  keys that one training pass attends to
    Y  positions that are learnt from
    Z  training passes: the first one and its recursions

A digit is that size. Pixels keep the field's own order: T frames, H height, W width, C channels.
"""
