"""The drafter's weights laid out for decoding: few rows, many small steps, so that the number of operations counts.

Projections that read the same input are joined, and rotary frequencies are kept. The results are those of
`SparrowDrafterModel`, up to rounding. Shape letters: R new rows, D hidden size, H heads, G KV heads, d head size.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import linear, rms_norm, silu

from sparrow_core.decoding.target import SequenceRows
from sparrow_core.models.attention_interface import PassCache
from sparrow_core.models.drafter import DrafterLayer, SparrowDrafterModel, rotate
from sparrow_core.models.padding import store_by_input


class DrafterSteps:
    """Steps of a trained drafter over caches; the weights are copies, frozen."""

    def __init__(self, model: SparrowDrafterModel) -> None:
        layer = model.layers[0]
        assert isinstance(layer, DrafterLayer)
        attention, mlp = layer.self_attn, layer.mlp
        self.config = config = model.config
        self._token_norm, self._post_norm = model.input_layernorm.weight.detach(), layer.post_attention_layernorm
        self._fc_weight, self._fc_bias = store_by_input(model.fc.weight.detach()), model.fc.bias.detach()
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._qkv_weight = store_by_input(torch.cat([projection.weight.detach() for projection in projections]))
        self._qkv_bias = torch.cat([projection.bias.detach() for projection in projections])
        self._out_weight = store_by_input(attention.o_proj.weight.detach())
        gate_up_weight = torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()])
        self._gate_up_weight = store_by_input(gate_up_weight)
        self._down_weight = store_by_input(mlp.down_proj.weight.detach())
        exponents = torch.arange(0, config.head_dim, 2, device=self._fc_weight.device).float() / config.head_dim
        self._frequency = torch.cat([config.rope_theta**-exponents] * 2)

    def step(
        self,
        embeddings_RD: torch.Tensor,
        states_RD: torch.Tensor,
        positions_R: torch.Tensor,
        sequences: Sequence[SequenceRows],
    ) -> torch.Tensor:
        """New rows of all sequences, one after the other, each over its own cache -> outputs [R, D].

        A row reads its token's embedding and the state of the position before it.
        """
        config = self.config
        if config.blind:
            states_RD = torch.zeros_like(states_RD)
        normed_RD = rms_norm(embeddings_RD, embeddings_RD.shape[-1:], self._token_norm, config.rms_norm_eps)
        z_RD = linear(torch.cat([normed_RD, states_RD], -1), self._fc_weight, self._fc_bias)
        heads_RHd = linear(z_RD, self._qkv_weight, self._qkv_bias).view(len(z_RD), -1, config.head_dim)
        angle_R1d = (positions_R.float()[:, None] * self._frequency)[:, None]
        num_turned = config.num_heads + config.num_kv_heads
        turned_RHd = rotate(heads_RHd[:, :num_turned], angle_R1d.cos(), angle_R1d.sin())
        queries_HRd, keys_GRd = turned_RHd.transpose(0, 1).split([config.num_heads, config.num_kv_heads])
        values_GRd = heads_RHd[:, num_turned:].transpose(0, 1)
        caches = PassCache(sequences)
        caches.update(keys_GRd[None], values_GRd[None], layer=0)
        attended_HRd = caches.attend(queries_HRd, config.head_dim**-0.5)
        x_RD = z_RD + linear(attended_HRd.transpose(0, 1).flatten(1), self._out_weight)
        gate_RF, up_RF = linear(self._post_norm(x_RD), self._gate_up_weight).chunk(2, -1)
        return x_RD + linear(silu(gate_RF) * up_RF, self._down_weight)
