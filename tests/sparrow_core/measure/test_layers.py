"""The layer study on a tiny model: hidden visual tokens change nothing, and hiding leaves no trace."""

from pathlib import Path

import pytest
import torch

from sparrow_core.decoding.target import TargetModel
from sparrow_core.measure.layers import study_window
from sparrow_core.targets.reference import generate, hiding_visual, load_reference, visual_cosines
from tests.conftest import video_messages


@pytest.fixture(scope="module")
def eager(tiny_checkpoint: Path):
    return load_reference(str(tiny_checkpoint), device=torch.device("cpu"), dtype=torch.float32, attention="eager")


def test_a_video_hidden_from_the_first_layer_on_changes_no_caption(tiny_target: TargetModel, eager) -> None:
    prompts = [tiny_target.build_prompt(video_messages(seed=seed)) for seed in (1, 2)]
    captions = [generate(eager, prompt, 8).token_ids for prompt in prompts]
    assert captions[0] != captions[1]
    blind_captions = []
    for prompt in prompts:
        with hiding_visual(eager, prompt, layer=1):
            blind_captions.append(generate(eager, prompt, 8).token_ids)
    assert blind_captions[0] == blind_captions[1]
    assert [generate(eager, prompt, 8).token_ids for prompt in prompts] == captions, "nothing stays hidden"


def test_every_layer_is_studied(tiny_target: TargetModel, eager) -> None:
    prompt = tiny_target.build_prompt(video_messages(seed=1))
    texts: list[str] = []

    def score(text: str) -> float:
        texts.append(text)
        return len(texts) / 10

    findings = list(study_window(eager, tiny_target, prompt, 7, 6, score))
    assert [(f.layer, f.window, f.fact_score) for f in findings] == [(1, 7, 0.1), (2, 7, 0.2), (3, 7, 0.3)]
    assert [f.cosine for f in findings[:2]] == visual_cosines(eager, prompt) and findings[2].cosine is None
    assert findings[0].cosine == pytest.approx(1.0), "the input of the first layer is the embedding"
    assert texts[2] == tiny_target.decode_text(generate(eager, prompt, 6).token_ids)
