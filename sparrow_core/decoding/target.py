"""The target protocol: what the engine needs from any video LLM. `sparrow_core.targets` implements it, a file a family.

Shape letters: A axes of a position (1 for plain RoPE, 3 for M-RoPE), D hidden size, G KV heads, P pending slots of a
cache, R rows of a pass, S slots of a sequence, V vocabulary, d head size.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from sparrow_core.decoding.cache import CacheShape, KVCache
from sparrow_core.types import Message


@dataclass(frozen=True)
class TargetInfo:
    """Facts about a loaded target from which drafters, caches and artefacts are built.

    `fingerprint` identifies the weights, `tokenizer_hash` the vocabulary and chat template; a drafter's artefact holds
    both. `position_axes` is 1 for plain RoPE and 3 for M-RoPE.
    """

    name: str
    fingerprint: str
    tokenizer_hash: str
    position_axes: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    stop_token_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype

    @property
    def cache_shape(self) -> CacheShape:
        """What one slot of this target's KV cache holds."""
        return CacheShape(self.num_layers, self.num_kv_heads, self.head_dim, self.device, self.dtype)

    @property
    def dtype_name(self) -> str:
        """The dtype's name in configuration, tables and results: float32, bfloat16."""
        return dtype_name(self.dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name without the prefix `torch.`"""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class VisualInput:
    """One image or video, prepared for its family's vision tower.

    `kind` is image or video. `patches` is float32, frame after frame. `num_tokens` visual tokens stand for it in the
    prompt. `grid_thw` counts steps in time, rows of patches and columns of patches; `second_per_grid_s` is the time
    between two steps.
    """

    kind: str
    patches: torch.Tensor
    num_tokens: int
    grid_thw: tuple[int, int, int]
    second_per_grid_s: float


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation: token ids with one placeholder per visual token, and the visuals in order of appearance.

    `is_text_S` is False at the placeholders and True elsewhere.
    """

    token_ids_S: torch.Tensor
    is_text_S: torch.Tensor
    visuals: tuple[VisualInput, ...]

    @property
    def num_visual_tokens(self) -> int:
        return int((~self.is_text_S).sum())


@dataclass(frozen=True)
class EmbeddedPrompt:
    """A prompt after the vision tower: an embedding and a position for each of its S slots.

    A generated token at slot s >= S has position s + `position_offset` on every axis.
    """

    embeddings_SD: torch.Tensor
    positions_AS: torch.Tensor
    position_offset: int


@dataclass(frozen=True)
class SequenceRows:
    """One sequence's new rows in a pass, which may hold rows of other sequences, too.

    Each row sees all committed slots of `cache` and those of its P pending slots that `visible_RP` allows. P includes
    the new rows, which are the last of them. None means causal order: a row sees every slot up to its own.
    """

    cache: KVCache
    num_rows: int
    visible_RP: torch.Tensor | None = None


@dataclass(frozen=True)
class TargetPass:
    """Result of one forward pass: final-norm hidden states, which lm_head reads, and the requested taps.

    `taps[m]` is the output of the m-th decoder layer [R, D], counted from 1.
    """

    hidden_RD: torch.Tensor
    taps: dict[int, torch.Tensor]


Result = TypeVar("Result")


def run_to_end(steps: Generator[None, None, Result]) -> Result:
    """Run a computation that pauses, without the pauses; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class TargetModel(Protocol):
    """A video LLM as three steps: embeddings, a transformer pass over our own KV cache, and logits.

    An implementation that inherits from this class writes `embed_by_frames` and `forward_by_layer`, which pause so that
    other work can run between their steps; `embed` and `forward` run them to the end.
    """

    info: TargetInfo

    def build_prompt(self, messages: tuple[Message, ...]) -> Prompt:
        """Render the chat template, cut frames into patches, expand placeholders. Does not run the vision tower.

        Raises ConfigError for messages that the target cannot take.
        """
        ...

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """Run the vision tower and put its features in place of the placeholders' embeddings."""
        return run_to_end(self.embed_by_frames(prompt))

    def embed_by_frames(self, prompt: Prompt) -> Generator[None, None, EmbeddedPrompt]:
        """`embed` with a pause after every few frames."""
        ...

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Text embeddings: int64 [...] -> [..., D]."""
        ...

    def forward(
        self,
        embeddings_RD: torch.Tensor,
        positions_AR: torch.Tensor,
        sequences: Sequence[SequenceRows],
        tap_layers: tuple[int, ...] = (),
    ) -> TargetPass:
        """One pass over the new rows of all `sequences`, which follow one another in `embeddings_RD`.

        The rows' keys and values become the last pending slots of their caches; the caller commits or drops them.
        Where the machine's passes are batch-invariant, the result of a row whose prompt is sealed depends on nothing
        but the row and the slots that it sees. Raises ConfigError if a cache is too small.
        """
        return run_to_end(self.forward_by_layer(embeddings_RD, positions_AR, sequences, tap_layers))

    def forward_by_layer(
        self,
        embeddings_RD: torch.Tensor,
        positions_AR: torch.Tensor,
        sequences: Sequence[SequenceRows],
        tap_layers: tuple[int, ...] = (),
    ) -> Generator[None, None, TargetPass]:
        """`forward` with a pause after every layer, during which passes over other sequences may run."""
        ...

    def attention(
        self, layer: int, hidden_RD: torch.Tensor, positions_AR: torch.Tensor, keys_GSd: torch.Tensor
    ) -> torch.Tensor:
        """Attention weight of each slot in a layer, averaged over heads and the sequence's last R slots: float32 [S].

        `layer` counts from 1; `hidden_RD` are the outputs of the layer before it at the last R slots, `keys_GSd` its
        keys at all slots.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """lm_head: final-norm hidden states [..., D] -> float32 logits [..., V]."""
        ...

    def decode_text(self, token_ids: tuple[int, ...]) -> str:
        """The text of generated token ids, without special tokens."""
        ...
