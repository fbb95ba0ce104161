"""The paper's layer study: how much of the video must stay, and for how many layers?

For every layer, captions of the model when nothing attends to visual tokens from there on, by transformers' own
`generate`, and the cosine between visual states and their embeddings. It does not know how a caption is scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.targets.reference import ReferenceModel, generate, hiding_visual, visual_cosines


@dataclass(frozen=True)
class LayerFinding:
    """One window without visual tokens from `layer` on (counted from 1; one beyond the last: with all of them).

    `cosine` is that of what goes into the layer at visual tokens with their embeddings; None beyond the last.
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
    """All layers of one window. `target` gives the text of tokens; the model must be loaded with eager attention."""
    cosines = visual_cosines(reference, prompt)
    for layer in range(1, len(cosines) + 2):
        with hiding_visual(reference, prompt, layer):
            said = generate(reference, prompt, max_new_tokens).token_ids
        cosine = cosines[layer - 1] if layer <= len(cosines) else None
        yield LayerFinding(layer, window, cosine, score(target.decode_text(said)))
