"""The drafter's network fused into few operations for decoding. It computes `SparrowDrafterModel` up to rounding.

Shape letters: D hidden size, R rows of a pass, d head size.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import linear, silu

from sparrow_core.decoding.fused_layers import FusedLayer, FusedNorm, Rotation, join_linears
from sparrow_core.decoding.pass_attention import PassAttention
from sparrow_core.decoding.target import SequenceRows
from sparrow_core.drafters.network import DrafterLayer, SparrowDrafterModel


class DrafterSteps:
    """Passes of a trained drafter over KV caches."""

    def __init__(self, model: SparrowDrafterModel) -> None:
        layer = model.layers[0]
        assert isinstance(layer, DrafterLayer)
        config = model.config
        self._blind, self._num_heads = config.blind, config.num_heads
        self._token_norm = FusedNorm(model.input_layernorm)
        self._fc_weight, self._fc_bias = join_linears(model.fc)
        self._layer = FusedLayer(layer.self_attn, layer.mlp, layer.post_attention_layernorm, config.head_dim, silu)
        exponents = torch.arange(0, config.head_dim, 2, device=self._fc_weight.device).float() / config.head_dim
        self._frequency = torch.cat([config.rope_theta**-exponents] * 2)

    @torch.no_grad()
    def step(
        self,
        embeddings_RD: torch.Tensor,
        hidden_RD: torch.Tensor,
        positions_R: torch.Tensor,
        sequences: Sequence[SequenceRows],
        added_RD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """New rows of all sequences, sequence after sequence, each over its own cache -> outputs [R, D].

        A row fuses its token's embedding with the hidden state at the token before it; `added_RD` is added to that.
        """
        if self._blind:
            hidden_RD = torch.zeros_like(hidden_RD)
        pairs = torch.cat([self._token_norm(embeddings_RD), hidden_RD], -1)
        z_RD = linear(pairs, self._fc_weight, self._fc_bias)
        if added_RD is not None:
            z_RD = z_RD + added_RD
        angle_Rd = positions_R.float()[:, None] * self._frequency
        rotation = Rotation(angle_Rd.cos().to(z_RD.dtype), angle_Rd.sin().to(z_RD.dtype))
        return self._layer(z_RD, z_RD, rotation, PassAttention(sequences, self._num_heads), 0)
