"""Fewer operations, the same results: joined projections, RoPE and RMSNorm against their plain forms.

`test_qwen2_5_vl.py` compares the whole decoder with the library's own.

Shape letters: D hidden size, H query heads, R rows of a pass, d head size.
"""

import torch
from torch import nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

from sparrow_core.decoding.fused_layers import FusedNorm, Rotation, join_linears
from sparrow_core.drafters.network import rotary, rotate


def test_joined_layers_keep_views_of_one_weight() -> None:
    layers = [nn.Linear(8, width) for width in (4, 6)]
    plain = [layer.weight.detach().clone() for layer in layers]
    x_RD = torch.randn(3, 8)
    expected = torch.cat([layer(x_RD) for layer in layers], 1)
    weight, bias = join_linears(*layers)
    torch.testing.assert_close(nn.functional.linear(x_RD, weight, bias), expected)
    for layer, before in zip(layers, plain, strict=True):
        assert torch.equal(layer.weight, before)
        assert layer.weight.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


def test_layers_without_bias_have_none() -> None:
    assert join_linears(nn.Linear(8, 4, bias=False))[1] is None


def test_rotation_pairs_halves() -> None:
    heads_RHd, positions_R = torch.randn(5, 2, 16), torch.tensor([0, 1, 7, 900, 30_000])
    cos_Rd, sin_Rd = rotary(positions_R, 16, 10_000.0)
    expected_RHd = rotate(heads_RHd, cos_Rd[:, None], sin_Rd[:, None])
    assert torch.equal(Rotation(cos_Rd, sin_Rd)(heads_RHd), expected_RHd)


def test_norm_takes_torch_and_transformers_modules() -> None:
    x_RD = torch.randn(3, 8) * 100
    for module in (nn.RMSNorm(8, eps=1e-5), Qwen2_5_VLRMSNorm(8, eps=1e-5)):
        nn.init.normal_(module.weight)
        torch.testing.assert_close(FusedNorm(module)(x_RD), module(x_RD))
