"""Configuration: every setting of the method, declared once. Importable without torch, Ray or transformers."""

from dataclasses import dataclass, field
from typing import Literal

from sparrow_core.errors import ConfigError

VerificationRule = Literal["shared_noise", "rejection"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the target's logits.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 switch those filters off. `rule` decides how sampled drafts are
    verified (see `decoding.verify`); it has no effect on greedy decoding.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    rule: VerificationRule = "shared_noise"

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature={self.temperature} must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p} must lie in (0, 1]")
        if self.top_k < 0:
            raise ConfigError(f"top_k={self.top_k} must be 0 (off) or more")


@dataclass(frozen=True)
class DraftConfig:
    """Shape of a draft in the paper's terms: total, depth and width. `total` counts nodes, the root included.

    `width` 1 is a chain of `depth` tokens; a larger width is EAGLE-2's dynamic tree.
    """

    depth: int = 4
    width: int = 1
    total: int = 5

    def __post_init__(self) -> None:
        if self.depth < 1 or self.width < 1:
            raise ConfigError(f"draft.depth={self.depth} and draft.width={self.width} must both be at least 1")
        if self.total < self.depth + 1:
            raise ConfigError(
                f"draft.total={self.total} cannot hold a path of depth {self.depth} and its root; "
                f"use at least {self.depth + 1}, or a smaller draft.depth"
            )

    @staticmethod
    def chain(depth: int) -> "DraftConfig":
        """A chain of `depth` drafted tokens."""
        return DraftConfig(depth=depth, width=1, total=depth + 1)


@dataclass(frozen=True)
class PrefillConfig:
    """How prompts are prefilled: in chunks of `chunk_tokens`, for a slice of `slice_ms` between two decoding rounds.

    A slice takes a little longer than that, since it ends only after a layer of a chunk or a few frames.
    """

    chunk_tokens: int = 384
    slice_ms: float = 50.0

    def __post_init__(self) -> None:
        if self.chunk_tokens < 1:
            raise ConfigError(f"prefill.chunk_tokens={self.chunk_tokens} must be at least 1")
        if self.slice_ms < 0:
            raise ConfigError(f"prefill.slice_ms={self.slice_ms} must be 0 (a layer at a time) or more")


@dataclass(frozen=True)
class EngineConfig:
    """Limits of an engine. `max_model_tokens` bounds the cache slots of one request: prompt, new tokens and one draft.

    `draft` fixes the shape of all drafts; None leaves it to the governor, which chooses a shape for every round.
    At most `max_sequences` requests run side by side. They share a KV cache of `arena_tokens` slots (0: as many as
    `max_model_tokens`).
    """

    draft: DraftConfig | None = None
    prefill: PrefillConfig = field(default_factory=PrefillConfig)
    max_model_tokens: int = 32_768
    max_sequences: int = 8
    arena_tokens: int = 0

    @property
    def num_slots(self) -> int:
        """Slots of the KV cache that an engine allocates."""
        return self.arena_tokens or self.max_model_tokens

    def __post_init__(self) -> None:
        if self.max_sequences < 1:
            raise ConfigError(f"engine.max_sequences={self.max_sequences} must be at least 1")
        if 0 < self.arena_tokens < self.max_model_tokens:
            raise ConfigError(
                f"engine.arena_tokens={self.arena_tokens} has no room for one request of engine.max_model_tokens="
                f"{self.max_model_tokens}; raise the first or lower the second"
            )


@dataclass(frozen=True)
class FrameSamplingConfig:
    """Which frames of a window the target sees.

    `count`, if set, overrides `fps` (frames per second). A window has at most `max_visual_tokens` visual tokens: frames
    first shrink, down to `min_frame_px` pixels (height x width), then become fewer.
    """

    fps: float = 2.0
    count: int | None = None
    max_frames: int = 768
    max_visual_tokens: int = 24_576
    min_frame_px: int = 112 * 112
    max_frame_px: int = 448 * 448


@dataclass(frozen=True)
class DecodeConfig:
    """Limits of the decoding child process: seconds per file, bytes of address space, files until it is replaced.

    A window fails if more than the share `max_missing_share` of its pictures is lost to damage. If fewer are lost, the
    picture before each lost one replaces it.
    """

    deadline_s: float = 120.0
    memory_limit_bytes: int = 4 * 1024**3
    files_per_child: int = 200
    num_threads: int = 2
    max_missing_share: float = 0.1


@dataclass(frozen=True)
class CaptureConfig:
    """What is recorded of the target for distillation, while it writes `captions_per_window` captions of each window.

    The share `greedy_share` of the captions is greedy, the others are sampled at `temperature`: in greedy text alone,
    each hidden state has a single next token. `bridge_layer` counts decoder layers from 1 (None: half of the target's
    layers). Bridge-layer hidden states are kept for at most `max_bridge_tokens` visual tokens of a window, spread
    evenly. `keep_embeddings` keeps all visual embeddings, which are large; drafters that see the video learn from them.
    """

    captions_per_window: int = 1
    temperature: float = 1.0
    greedy_share: float = 0.1
    max_new_tokens: int = 320
    bridge_layer: int | None = None
    max_bridge_tokens: int = 64
    keep_embeddings: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("captions_per_window", 1), ("max_new_tokens", 1), ("max_bridge_tokens", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"capture.{name}={getattr(self, name)} must be at least {least}")
        if self.temperature < 0:
            raise ConfigError(f"capture.temperature={self.temperature} must be 0 (greedy) or more")
        if not 0.0 <= self.greedy_share <= 1.0:
            raise ConfigError(f"capture.greedy_share={self.greedy_share} is a share: use a value from 0 to 1")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the distillation losses (`distill.losses`); a term of weight 0 is not computed.

    The ranking loss ranks the target's `ranked_tokens` likeliest tokens.
    """

    soft_cross_entropy: float = 1.0
    state_smooth_l1: float = 1.0
    probability_l1: float = 0.0
    ranking: float = 0.0
    ranked_tokens: int = 10


@dataclass(frozen=True)
class DistillConfig:
    """How a drafter is trained on the target's hidden states.

    `batch_size` counts the captions of one step over all workers; each worker processes its part in `accumulate`
    pieces. Captions share a row of up to `row_tokens` text tokens (0: each has a row of its own). `recursions` is the
    number of multi-token-prediction passes after the first; the loss of pass r has the weight `recursion_weight` ** r.
    `recursion_keys` says which keys these passes attend to. "decoding": as in decoding, keys from the target's hidden
    states up to the root and from the drafter's own after it. "paper": all keys recomputed from the drafter's own.
    `bridge_share` is the probability that training shows a caption's visual bridge-layer hidden states (0: no bridge),
    and `bridge_place` says where they stand (`drafters.anchors`). `state_noise` is the largest value of the uniform
    noise on hidden states that the drafter reads; those that it learns to predict have none. The learning rate warms up
    linearly over `warmup_steps`, then falls to the share `final_rate_share` of itself along a cosine or a line.
    `precision` bfloat16 computes passes and losses under autocast.
    """

    steps: int = 600
    batch_size: int = 16
    accumulate: int = 1
    row_tokens: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    learning_rate: float = 1e-3
    final_rate_share: float = 0.05
    warmup_steps: int = 30
    schedule: Literal["cosine", "linear"] = "cosine"
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    recursions: int = 3
    recursion_weight: float = 1.0
    recursion_keys: Literal["decoding", "paper"] = "decoding"
    bridge_share: float = 0.0
    bridge_place: Literal["before", "at_cut"] = "before"
    state_noise: float = 0.0
    loss: LossConfig = field(default_factory=LossConfig)
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be at least 1")
        if self.recursions < 0:
            raise ConfigError(f"train.recursions={self.recursions} must be 0 (first pass only) or more")
        if not 0.0 <= self.bridge_share <= 1.0:
            raise ConfigError(f"train.bridge_share={self.bridge_share} is a probability: use a value from 0 to 1")

    def refuse_uneven(self, workers: int) -> None:
        """Raise ConfigError unless `workers` workers can share a batch evenly, each in `accumulate` pieces."""
        if self.batch_size % (workers * self.accumulate):
            raise ConfigError(
                f"train.batch_size={self.batch_size} cannot be shared evenly by {workers} workers with "
                f"train.accumulate={self.accumulate}; use a multiple of {workers * self.accumulate}"
            )
