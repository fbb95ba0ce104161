"""The paper's layer study: from which layer on does the target do without visual tokens?

For every layer, a caption by transformers' own `generate` in which nothing attends to visual tokens from that layer on,
and the cosine between the layer's visual hidden states and their embeddings. Does not know how captions are scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.targets.reference import ReferenceModel, generate, hiding_visual, visual_cosines


@dataclass(frozen=True)
class LayerFinding:
    """One window without visual tokens from `layer` on. Layers count from 1; one beyond the last keeps visual tokens in
    all layers.

    `cosine` is the mean cosine between the layer's input at visual tokens and their embeddings, None beyond the last.
    """

    layer: int
    window: int
    cosine: float | None
    fact_score: float


def study_window(
    reference: ReferenceModel,
    target: TargetModel,
    prompt: Prompt,
    window: int,
    max_new_tokens: int,
    score: Callable[[str], float],
) -> Iterator[LayerFinding]:
    """Study all layers on one window. `target` decodes token ids to text; `reference` needs eager attention."""
    cosines = visual_cosines(reference, prompt)
    for layer in range(1, len(cosines) + 2):
        with hiding_visual(reference, prompt, layer):
            token_ids = generate(reference, prompt, max_new_tokens).token_ids
        cosine = cosines[layer - 1] if layer <= len(cosines) else None
        yield LayerFinding(layer, window, cosine, score(target.decode_text(token_ids)))
