"""Tiny drafters and random captured windows, shared by the tests of distillation."""

from collections.abc import Sequence

import torch

from sparrow_core.distill.states import WindowStates
from sparrow_core.distill.store import StoreHeader, TargetTables
from sparrow_core.models.drafter import DrafterConfig, SparrowDrafterModel

WIDTH, VOCAB = 32, 40

HEADER = StoreHeader(
    fingerprint="target-a", tokenizer_hash="tok", hidden_size=WIDTH, vocab_size=VOCAB, bridge_layer=2, settings="s"
)


def tiny_drafter(seed: int = 0, *, bridge: bool = True) -> SparrowDrafterModel:
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
    )
    return SparrowDrafterModel(config)


def random_tables(seed: int = 0) -> TargetTables:
    generator = torch.Generator().manual_seed(seed)
    return TargetTables(
        torch.randn(VOCAB, WIDTH, generator=generator), torch.randn(VOCAB, WIDTH, generator=generator) * 0.3
    )


def random_window(seed: int, prompt: int, caption: int, bridge: int = 3) -> WindowStates:
    generator = torch.Generator().manual_seed(seed)
    length = prompt + caption
    return WindowStates(
        token_ids_L=torch.randint(VOCAB, (length,), generator=generator),
        states_LD=torch.randn(length, WIDTH, generator=generator),
        is_caption_L=torch.arange(length) >= prompt,
        bridge_MD=torch.randn(bridge, WIDTH, generator=generator) * 5,
    )


class ListSource:
    """Windows held in memory, behind the trainer's `WindowSource`; remembers what was read."""

    def __init__(self, windows: Sequence[WindowStates]) -> None:
        self.windows = list(windows)
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> WindowStates:
        self.reads.append(index)
        return self.windows[index]

    def caption_masks(self) -> list[torch.Tensor]:
        return [window.is_caption_L for window in self.windows]
