"""The networks of Sparrow and of its one-layer rivals (torch modules), and their configuration.

One decoder layer over text tokens, fed with the target's visually aware hidden states, and over visual tokens in so far
as a drafter sees them. From the paper: hidden state reuse (HSR), z_t = fc(norm(e_t) ++ h_{t-1}), and text-anchored
attention (VATA). Modules have the names of the released checkpoints. The layer has no input norm and the drafter no
final norm: its output stands for the target's hidden state after the final norm, and the target's lm_head reads it.
Shape letters: B rows of a training batch, D hidden size, G KV heads, H query heads, M visual tokens, T text tokens,
d head size.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from sparrow_core.decoding.target import TargetInfo
from sparrow_core.drafters.anchors import Layout

Sight = Literal["text", "bridge", "embeddings", "summary"]


@dataclass(frozen=True)
class DrafterConfig:
    """Geometry and origin of a drafter. `bridge_layer` is m*, the target layer (from 1) whose hidden states the visual
    bridge (IVSB) shows in training.

    `sees` is what the drafter attends to in decoding:
        text        text alone (VATA; Sparrow, and HiViS, which is Sparrow without IVSB)
        bridge      the hidden states of layer m* at all visual tokens as well (Sparrow without VATA)
        embeddings  every visual embedding, straight into the layer (MSD, arXiv 2505.14260)
        summary     one token that a learned query makes of all visual embeddings; what another query finds is added
                    to the inputs of all text (ViSpec, arXiv 2509.15235)
    `longest_span` turns on position interpolation for a drafter that sees every visual token: a video of more tokens
    than this is scaled down to so many positions, so that no position is beyond those of training (None: never).
    `blind` zeroes the target's hidden states in training and decoding alike: the ablation that measures their worth.
    """

    target_fingerprint: str
    tokenizer_hash: str
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    bridge_layer: int
    has_bridge_norm: bool = True
    blind: bool = False
    sees: Sight = "text"
    longest_span: int | None = None

    @property
    def layout(self) -> Layout:
        """Positions in decoding of the visual tokens that the drafter sees (`anchors`)."""
        return "at_cut" if self.sees == "summary" else "sequence"

    @staticmethod
    def for_target(info: TargetInfo, *, blind: bool = False, sees: Sight = "text") -> "DrafterConfig":
        """The default drafter of a target: one layer of the target's shape, the bridge layer at half its depth."""
        return DrafterConfig(
            target_fingerprint=info.fingerprint,
            tokenizer_hash=info.tokenizer_hash,
            hidden_size=info.hidden_size,
            intermediate_size=info.intermediate_size,
            num_heads=info.num_heads,
            num_kv_heads=info.num_kv_heads,
            head_dim=info.head_dim,
            rms_norm_eps=info.rms_norm_eps,
            rope_theta=info.rope_theta,
            bridge_layer=info.num_layers // 2,
            blind=blind,
            sees=sees,
        )


def rotary(positions: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of plain RoPE: int [...] -> two float32 [..., head_dim]."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angle = positions[..., None].float() * frequency
    return torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply RoPE to the last axis, halves paired as transformers does."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


class DrafterAttention(nn.Module):
    """The projections of attention, with RoPE. The caller attends."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_width)
        self.k_proj = nn.Linear(config.hidden_size, kv_width)
        self.v_proj = nn.Linear(config.hidden_size, kv_width)
        self.o_proj = nn.Linear(q_width, config.hidden_size, bias=False)

    def project(
        self, z_BTD: torch.Tensor, positions_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries [B, H, T, d], rotated keys and values [B, G, T, d]."""
        return self._rotated(self.q_proj, z_BTD, positions_BT), *self.keys_values(z_BTD, positions_BT)

    def keys_values(self, z_BTD: torch.Tensor, positions_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of `project`, for inputs that send no queries."""
        return self._rotated(self.k_proj, z_BTD, positions_BT), self._split(self.v_proj(z_BTD))

    def _rotated(self, projection: nn.Linear, z_BTD: torch.Tensor, positions_BT: torch.Tensor) -> torch.Tensor:
        cos, sin = rotary(positions_BT, self.config.head_dim, self.config.rope_theta)
        return rotate(self._split(projection(z_BTD)), cos[:, None], sin[:, None])

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """One axis for the heads, before that of the tokens: [B, T, H * d] -> [B, H, T, d]."""
        return x.unflatten(2, (-1, self.config.head_dim)).transpose(1, 2)


class DrafterMLP(nn.Module):
    """SwiGLU, as in the target's layers."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DrafterLayer(nn.Module):
    """Attention and MLP with residuals; no norm before attention (EAGLE's convention)."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.self_attn = DrafterAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = DrafterMLP(config)

    def finish(self, z: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Everything after attention: `attended` is [..., H * d], the heads side by side."""
        x = z + self.self_attn.o_proj(attended)
        return x + self.mlp(self.post_attention_layernorm(x))


class Seen(NamedTuple):
    """What the layer sees of a video: its inputs, which of them are no padding, and what is added to the inputs of all
    text (None: nothing)."""

    z_BMD: torch.Tensor
    present_BM: torch.Tensor
    added_B1D: torch.Tensor | None = None


class VisualSummary(nn.Module):
    """ViSpec's adaptor: two learned queries attend over all visual embeddings. What one finds becomes a token; what the
    other finds is added to the inputs of all text."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.queries = nn.Parameter(torch.randn(2, size) * size**-0.5)
        self.k_proj, self.v_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)
        self.to_text = nn.Linear(size, size, bias=False)

    def forward(self, embeddings_BMD: torch.Tensor, present_BM: torch.Tensor) -> Seen:
        x_BMD = self.norm(embeddings_BMD)
        queries = self.queries.expand(len(x_BMD), -1, -1)
        queries, keys, values = (_heads(x, self.num_heads) for x in (queries, self.k_proj(x_BMD), self.v_proj(x_BMD)))
        is_there_B1 = present_BM.any(1, keepdim=True)
        visible_BM = present_BM | ~is_there_B1  # attention over no key would be nan
        found = functional.scaled_dot_product_attention(queries, keys, values, visible_BM[:, None, None])
        found_B2D = self.o_proj(found.transpose(1, 2).flatten(2)) * is_there_B1[..., None]
        token_B1D, added_B1D = found_B2D.chunk(2, 1)
        return Seen(token_B1D, is_there_B1, self.to_text(added_B1D))


def _heads(x_BTD: torch.Tensor, num_heads: int) -> torch.Tensor:
    return x_BTD.unflatten(2, (num_heads, -1)).transpose(1, 2)


class SparrowDrafterModel(nn.Module):
    """The drafter's weights. Training unrolls them (`distill.unroll`), decoding runs them as `DrafterSteps`; tests hold
    both against the plain pass over a whole sequence: `fuse`, then `forward`."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.layers = nn.ModuleList([DrafterLayer(config)])
        self.bridge_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps) if config.has_bridge_norm else None
        self.summary = VisualSummary(config) if config.sees == "summary" else None

    def fuse(self, embeddings: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """HSR: token embeddings and the hidden states at the tokens before them, both [..., D] -> z [..., D]."""
        if self.config.blind:
            hidden = torch.zeros_like(hidden)
        return self.fc(torch.cat([self.input_layernorm(embeddings), hidden], dim=-1))

    def see(self, visual_BMD: torch.Tensor, present_BM: torch.Tensor) -> Seen:
        """The layer's inputs from visual embeddings or from bridge-layer hidden states, as `config.sees` says."""
        if self.summary is not None:
            return self.summary(visual_BMD, present_BM)  # type: ignore[no-any-return]
        return Seen(visual_BMD if self.bridge_norm is None else self.bridge_norm(visual_BMD), present_BM)

    def forward(self, z_BTD: torch.Tensor, positions_BT: torch.Tensor, visible_BTT: torch.Tensor) -> torch.Tensor:
        """Whole sequences at once -> outputs [B, T, D]. `visible_BTT` is True where a token (row) sees another
        (column)."""
        layer: DrafterLayer = self.layers[0]  # type: ignore[assignment]
        queries, keys, values = layer.self_attn.project(z_BTD, positions_BT)
        attended_BHTd = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=visible_BTT[:, None], enable_gqa=True
        )
        return layer.finish(z_BTD, attended_BHTd.transpose(1, 2).flatten(2))
