"""Import of published drafters: geometry from shapes, `embed_tokens` dropped, tensors that do not fit refused."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.artefact import load_drafter, save_drafter
from sparrow_core.drafters.eagle_import import import_drafter
from sparrow_core.drafters.network import DrafterConfig, SparrowDrafterModel
from sparrow_core.errors import CheckpointError


@pytest.fixture
def published(tiny_target: TargetModel) -> dict[str, torch.Tensor]:
    """Tensors of a drafter with as many KV heads as heads and a wider MLP, without biases, with the embedding."""
    info = tiny_target.info
    config = dataclasses.replace(
        DrafterConfig.for_target(info), num_kv_heads=info.num_heads, intermediate_size=160, has_bridge_norm=False
    )
    torch.manual_seed(3)
    tensors = {n: t.clone() for n, t in SparrowDrafterModel(config).state_dict().items() if not n.endswith(".bias")}
    return tensors | {"embed_tokens.weight": torch.randn(info.vocab_size, info.hidden_size)}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_published_drafter_is_imported(
    tiny_target: TargetModel, published: dict[str, torch.Tensor], tmp_path: Path, kind: str
) -> None:
    if kind == "bin":
        torch.save(published, tmp_path / "pytorch_model.bin")
    else:
        save_file(published, tmp_path / "model.safetensors")
    model = import_drafter(tmp_path, tiny_target.info)
    config = model.config
    assert (config.num_kv_heads, config.intermediate_size) == (tiny_target.info.num_heads, 160)
    for name, tensor in model.state_dict().items():
        expected = published.get(name, torch.zeros_like(tensor))
        assert torch.equal(tensor, expected), name
    save_drafter(tmp_path / "ours", model, "")
    assert load_drafter(str(tmp_path / "ours"), tiny_target).model.config == config


def test_tensors_that_do_not_fit_are_refused(
    tiny_target: TargetModel, published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    def refused(tensors: dict[str, torch.Tensor], complaint: str) -> None:
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=complaint):
            import_drafter(tmp_path, tiny_target.info)

    with pytest.raises(CheckpointError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
        import_drafter(tmp_path, tiny_target.info)
    refused(published | {"embed_tokens.weight": torch.zeros(9, 64)}, r"shape \(9, 64\).*another target")
    refused({k: v for k, v in published.items() if "gate_proj" not in k}, r"no tensor layers\.0\.mlp\.gate_proj")
    refused(published | {"layers.1.mlp.up_proj.weight": torch.zeros(2, 2)}, "(?s)no one-layer drafter.*Unexpected")
    refused(published | {"fc.weight": torch.zeros(32, 64)}, "32 wide, but the target is 64")
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="cannot be read"):
        import_drafter(tmp_path, tiny_target.info)
