"""What the engine needs from any video LLM. Families implement it (`models/families`); nothing here knows one by name.

Shape letters: S prompt tokens, R rows of one pass, P pending cache slots, D hidden size, V vocabulary, A axes of a
position (1 for plain RoPE, 3 for M-RoPE).
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from sparrow_core.decoding.cache import CacheShape, KVCache
from sparrow_core.types import Message


@dataclass(frozen=True)
class TargetInfo:
    """Facts about a loaded target that drafters, caches and artefacts are built from.

    `fingerprint` identifies the weights, `tokenizer_hash` the vocabulary and chat template; a drafter names both.
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
        return CacheShape(self.num_layers, self.num_kv_heads, self.head_dim, self.device, self.dtype)

    @property
    def dtype_name(self) -> str:
        """As configuration, tables and results write it: float32, bfloat16."""
        return dtype_name(self.dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype without the library's name before it."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class VisualInput:
    """One image or video as its family's vision tower eats it (float32, frame after frame), and what it costs.

    `grid_thw` counts steps in time, rows and columns of patches; `second_per_grid_s` is the time from step to step.
    """

    kind: str
    patches: torch.Tensor
    num_tokens: int
    grid_thw: tuple[int, int, int]
    second_per_grid_s: float


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation: token ids with one placeholder per visual token, and the visuals in order of appearance.

    `is_text_S` is False exactly at the placeholders.
    """

    token_ids_S: torch.Tensor
    is_text_S: torch.Tensor
    visuals: tuple[VisualInput, ...]

    @property
    def num_visual_tokens(self) -> int:
        return int((~self.is_text_S).sum())


@dataclass(frozen=True)
class EmbeddedPrompt:
    """A prompt after the vision tower. A token at slot s >= S has position s + `position_offset` on each axis."""

    embeddings_SD: torch.Tensor
    positions_AS: torch.Tensor
    position_offset: int


@dataclass(frozen=True)
class SequenceRows:
    """One sequence's new rows in a pass that it may share with other sequences.

    Each row sees all committed slots of `cache`, and of its P pending ones those in `visible_RP`; P counts the new rows
    too, which stand last. None is reading order: a row sees every slot up to its own.
    """

    cache: KVCache
    num_rows: int
    visible_RP: torch.Tensor | None = None


@dataclass(frozen=True)
class TargetPass:
    """Result of one forward pass: final-norm states (what lm_head reads) and the taps asked for, by layer.

    Layer m counts decoder layers from 1: `taps[m]` is the output of the m-th decoder layer.
    """

    hidden_RD: torch.Tensor
    taps: dict[int, torch.Tensor]


Result = TypeVar("Result")


def finish(steps: Generator[None, None, Result]) -> Result:
    """What a computation with pauses returns in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class TargetModel(Protocol):
    """A video LLM seen as embeddings, one transformer pass over our own cache, and logits.

    A target that inherits from it writes the two computations with pauses, and has those without from here.
    """

    info: TargetInfo

    def build_prompt(self, messages: tuple[Message, ...]) -> Prompt:
        """Render the chat template, cut frames into patches, expand placeholders. Runs without the vision tower."""
        ...

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """Run the vision tower and place its features among the text embeddings."""
        return finish(self.embed_by_frames(prompt))

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
        """One pass over the new rows of all `sequences`, one after the other in `embeddings_RD`.

        The rows' keys and values are written behind what is pending in their caches; the caller commits or drops them.
        Once its prompt is sealed, a row's result depends on nothing but the row and what it sees.
        """
        return finish(self.forward_by_layer(embeddings_RD, positions_AR, sequences, tap_layers))

    def forward_by_layer(
        self,
        embeddings_RD: torch.Tensor,
        positions_AR: torch.Tensor,
        sequences: Sequence[SequenceRows],
        tap_layers: tuple[int, ...] = (),
    ) -> Generator[None, None, TargetPass]:
        """`forward` with a pause after every layer, in which passes over other sequences may run."""
        ...

    def attention(
        self, layer: int, hidden_RD: torch.Tensor, positions_AR: torch.Tensor, keys_GSd: torch.Tensor
    ) -> torch.Tensor:
        """How much the last R slots of a sequence attend to each slot in a layer (counted from 1) that reads
        `hidden_RD`, the outputs of the layer before, and has these keys: float32 [S], averaged over slots and heads."""
        ...

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """lm_head: [..., D] -> float32 [..., V]."""
        ...

    def decode_text(self, token_ids: tuple[int, ...]) -> str:
        """Text of generated ids, special tokens left out."""
        ...
