"""Tiny drafters, random captured windows and random training examples, shared by the tests of distillation."""

from collections.abc import Sequence

import torch

from sparrow_core.distill.hidden_states import CapturedCaption, CapturedWindow, TrainingExample, training_example
from sparrow_core.distill.shards import StoreHeader
from sparrow_core.distill.target_tables import TargetTables
from sparrow_core.drafters.network import DrafterConfig, Sight, SparrowDrafterModel

WIDTH, VOCAB = 32, 40

HEADER = StoreHeader(
    fingerprint="target-a", tokenizer_hash="tok", hidden_size=WIDTH, vocab_size=VOCAB, bridge_layer=2, settings="s"
)


def tiny_drafter(seed: int = 0, *, bridge: bool = True, sees: Sight = "text") -> SparrowDrafterModel:
    torch.manual_seed(seed)
    config = DrafterConfig(
        target_fingerprint="target-a",
        tokenizer_hash="tok",
        hidden_size=WIDTH,
        intermediate_size=48,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        bridge_layer=2,
        has_bridge_norm=bridge,
        sees=sees,
    )
    return SparrowDrafterModel(config)


def random_tables(seed: int = 0) -> TargetTables:
    generator = torch.Generator().manual_seed(seed)
    return TargetTables(
        torch.randn(VOCAB, WIDTH, generator=generator), torch.randn(VOCAB, WIDTH, generator=generator) * 0.3
    )


def captured_window(
    seed: int, prompt: int, captions: Sequence[int], bridge: int = 3, visual: int = 6
) -> CapturedWindow:
    """A prompt of `prompt` text tokens, with a video of `visual` tokens behind the first one, and captions of these
    lengths."""
    generator = torch.Generator().manual_seed(seed)
    is_text = torch.ones(prompt + visual, dtype=torch.bool)
    is_text[1 : 1 + visual] = False
    visual_slots = (~is_text).nonzero()[:, 0]
    return CapturedWindow(
        prompt_ids_T=torch.randint(VOCAB, (prompt,), generator=generator),
        prompt_slots_T=is_text.nonzero()[:, 0],
        prompt_hidden_TD=torch.randn(prompt, WIDTH, generator=generator),
        bridge_slots_U=visual_slots[:bridge],
        bridge_UD=torch.randn(bridge, WIDTH, generator=generator) * 5,
        embeddings_MD=torch.randn(visual, WIDTH, generator=generator),
        captions=tuple(
            CapturedCaption(
                torch.randint(VOCAB, (length,), generator=generator),
                torch.randn(length - 1, WIDTH, generator=generator),
            )
            for length in captions
        ),
    )


def random_example(seed: int, prompt: int, caption: int, bridge: int = 3) -> TrainingExample:
    return training_example(captured_window(seed, prompt, [caption], bridge, visual=max(6, bridge)), 0)


class ListSource:
    """A trainer's `ExampleSource` in memory that remembers which examples were read."""

    def __init__(self, examples: Sequence[TrainingExample]) -> None:
        self._examples = list(examples)
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self._examples)

    def examples(self, indices: Sequence[int]) -> list[TrainingExample]:
        self.reads += indices
        return [self._examples[index] for index in indices]
