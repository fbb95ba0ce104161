"""Decoder layers of the Llama kind (Qwen2's among them) in few operations.

A decoding pass has few rows, so its time depends on the number of operations more than on their size. Projections that
read the same input are one product, and a residual is added by the product before it. The weights are those of the
modules given, which keep views of them.

Shape letters: A axes of a position, D hidden size, G KV heads, H query heads, I intermediate size of an MLP, R rows of
a pass, S slots of a sequence, d head size, h query heads of one KV head.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from sparrow_core.decoding.padding import store_by_input
from sparrow_core.decoding.pass_attention import PassAttention


class Rotation:
    """RoPE of the rows of one pass. Value i of a head is paired with value i + d / 2, as in transformers."""

    def __init__(self, cos_Rd: torch.Tensor, sin_Rd: torch.Tensor) -> None:
        first, second = sin_Rd.chunk(2, -1)
        self._half = first.shape[-1]
        self._cos_R1d = cos_Rd[:, None]
        self._sin_R1d = torch.cat([-first, second], -1)[:, None]

    def __call__(self, heads_RHd: torch.Tensor) -> torch.Tensor:
        return heads_RHd * self._cos_R1d + heads_RHd.roll(self._half, -1) * self._sin_R1d


class FusedNorm:
    """RMSNorm with the weight and epsilon of a module of torch or transformers.

    On a CPU torch's own consists of more and slower operations.
    """

    def __init__(self, norm: Any) -> None:
        self._weight_D = norm.weight.detach()
        eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
        self._sum_dtype = torch.promote_types(self._weight_D.dtype, torch.float32)
        self._eps_1 = torch.tensor([eps], device=self._weight_D.device, dtype=self._sum_dtype)

    def __call__(self, x_RD: torch.Tensor) -> torch.Tensor:
        norm_R1 = torch.linalg.vector_norm(x_RD, dim=-1, keepdim=True, dtype=self._sum_dtype)
        scale_R1 = torch.addcmul(self._eps_1, norm_R1, norm_R1, value=1 / x_RD.shape[-1]).rsqrt_()
        return (x_RD * scale_R1).to(x_RD.dtype) * self._weight_D


class FusedLayer:
    """One layer. `attention` has q_proj, k_proj, v_proj and o_proj; `mlp` has gate_proj, up_proj and down_proj."""

    def __init__(
        self,
        attention: Any,
        mlp: Any,
        post_norm: Any,
        head_dim: int,
        activation: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self._head_dim = head_dim
        self._num_heads = attention.q_proj.out_features // head_dim
        self._num_kv_heads = attention.k_proj.out_features // head_dim
        self._qkv_weight, self._qkv_bias = join_linears(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out_weight, _ = join_linears(attention.o_proj)
        self._gate_up_weight, _ = join_linears(mlp.gate_proj, mlp.up_proj)
        self._down_weight, _ = join_linears(mlp.down_proj)
        self._post_norm = FusedNorm(post_norm)
        self._activation = activation

    def __call__(
        self,
        inputs_RD: torch.Tensor,
        residual_RD: torch.Tensor,
        rotation: Rotation,
        attention: PassAttention,
        number: int,
    ) -> torch.Tensor:
        """The layer's output [R, D]. `number` counts layers from 0.

        The projections read `inputs_RD`; the result of attention is added to `residual_RD`.
        """
        queries_HRd, keys_GRd, values_GRd = self._project(inputs_RD, rotation)
        attended_RHd = attention.attend(number, queries_HRd, keys_GRd, values_GRd).transpose(0, 1)
        x_RD = torch.addmm(residual_RD, attended_RHd.flatten(1), self._out_weight.t())
        gate_RI, up_RI = linear(self._post_norm(x_RD), self._gate_up_weight).chunk(2, -1)
        return torch.addmm(x_RD, self._activation(gate_RI) * up_RI, self._down_weight.t())

    def attention(self, inputs_RD: torch.Tensor, rotation: Rotation, keys_GSd: torch.Tensor) -> torch.Tensor:
        """Attention weight of each slot, averaged over heads and the rows, which are the last R slots: float32 [S]."""
        queries_HRd, _, _ = self._project(inputs_RD, rotation)
        queries_GhRd = queries_HRd.unflatten(0, (self._num_kv_heads, -1))
        scores_GhRS = queries_GhRd @ keys_GSd[:, None].transpose(-1, -2) * self._head_dim**-0.5
        unseen_RS = torch.ones(scores_GhRS.shape[-2:], dtype=torch.bool, device=scores_GhRS.device)
        unseen_RS = unseen_RS.triu(keys_GSd.shape[1] - len(inputs_RD) + 1)
        return scores_GhRS.float().masked_fill(unseen_RS, float("-inf")).softmax(-1).mean((0, 1, 2))

    def _project(self, inputs_RD: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries [H, R, d], rotated keys and values [G, R, d]."""
        heads_RHd = linear(inputs_RD, self._qkv_weight, self._qkv_bias).unflatten(1, (-1, self._head_dim))
        num_rotated = self._num_heads + self._num_kv_heads
        rotated_HRd = rotation(heads_RHd[:, :num_rotated]).transpose(0, 1)
        values_GRd = heads_RHd[:, num_rotated:].transpose(0, 1)
        return rotated_HRd[: self._num_heads], rotated_HRd[self._num_heads :], values_GRd


def join_linears(*layers: nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One weight [outputs, inputs] and bias [outputs] for layers that read the same input.

    The layers keep views of the weight. On a CPU it is stored for products of few rows (see `padding`).
    """
    weight = torch.cat([layer.weight.detach() for layer in layers])
    if weight.device.type == "cpu":
        weight = store_by_input(weight)
    for layer, part in zip(layers, weight.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    return weight, torch.cat(biases) if biases else None


class FusedDecoder:
    """All layers and the final norm of a transformers language model: from embeddings to final-norm hidden states."""

    def __init__(self, language_model: Any, head_dim: int) -> None:
        self._rotary = language_model.rotary_emb
        self._norm = FusedNorm(language_model.norm)
        self._layers = [
            (FusedNorm(layer.input_layernorm), FusedLayer(
                layer.self_attn, layer.mlp, layer.post_attention_layernorm, head_dim, layer.mlp.act_fn
            ))
            for layer in language_model.layers
        ]  # fmt: skip

    def __call__(
        self, x_RD: torch.Tensor, positions_AR: torch.Tensor, attention: PassAttention, tap_layers: Sequence[int]
    ) -> Generator[None, None, tuple[torch.Tensor, dict[int, torch.Tensor]]]:
        """Final-norm hidden states [R, D] and the outputs of `tap_layers` (counted from 1). Pauses after each layer."""
        rotation = self._rotation(x_RD, positions_AR)
        taps = {}
        for number, (input_norm, layer) in enumerate(self._layers):
            x_RD = layer(input_norm(x_RD), x_RD, rotation, attention, number)
            if number + 1 in tap_layers:
                taps[number + 1] = x_RD
            yield
        return self._norm(x_RD), taps

    def attention(
        self, layer: int, hidden_RD: torch.Tensor, positions_AR: torch.Tensor, keys_GSd: torch.Tensor
    ) -> torch.Tensor:
        """`FusedLayer.attention` of a layer (counted from 1); `hidden_RD` are the outputs of the layer before it."""
        input_norm, fused = self._layers[layer - 1]
        return fused.attention(input_norm(hidden_RD), self._rotation(hidden_RD, positions_AR), keys_GSd)

    def _rotation(self, x_RD: torch.Tensor, positions_AR: torch.Tensor) -> Rotation:
        positions = positions_AR if len(positions_AR) == 1 else positions_AR[:, None]  # plain RoPE, or M-RoPE
        cos_1Rd, sin_1Rd = self._rotary(x_RD, positions)
        return Rotation(cos_1Rd[0], sin_1Rd[0])
