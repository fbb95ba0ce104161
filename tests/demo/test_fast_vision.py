"""The fast vision tower against the library's own."""

import pytest
import torch

from demo.fast_vision import speed_up
from demo.model import new_target
from demo.tokenizer import train_tokenizer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("grids", [[(4, 8, 8), (4, 8, 8)], [(2, 12, 12)], [(1, 20, 16), (3, 8, 12)]])
def test_same_features_and_gradients_as_the_library(grids: list[tuple[int, int, int]]) -> None:
    visual = new_target(train_tokenizer(num_captions=20)).model.visual
    torch.manual_seed(1)
    patches = torch.randn(sum(t * h * w for t, h, w in grids), 3 * 2 * 14 * 14)
    results = []
    for fast in (False, True):
        if fast:
            speed_up(visual)
        visual.zero_grad()
        features = visual(patches, grid_thw=torch.tensor(grids)).pooler_output
        features.square().mean().backward()
        results.append((features.detach(), visual.patch_embed.proj.weight.grad.clone()))
    # float32 sums in another order
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)
