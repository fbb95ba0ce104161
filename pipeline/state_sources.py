"""What a drafter learns from, as a value that every training worker opens for itself: states that were stored, or a
target that writes captions beside the training."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from pipeline.distill_config import DistillRunConfig
from pipeline.ids import settings_fingerprint
from pipeline.storage import local_folder
from pipeline.worker_engine import WorkerModels, worker_engine
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.distill.online import OnlineWindow, OnlineWindows
from sparrow_core.distill.recorder import bridge_layer
from sparrow_core.distill.store import StateStore, TargetTables, target_tables
from sparrow_core.distill.trainer import WindowSource
from sparrow_core.errors import ConfigError


class OpenStates(NamedTuple):
    """Captions to learn from, and what training needs of their target."""

    windows: WindowSource
    tables: TargetTables


class StateSource(Protocol):
    """`digest` identifies all that is learnt from, `names` the windows, `len` counts captions. A worker opens it on the
    device that it trains on."""

    @property
    def digest(self) -> str: ...
    @property
    def bridge_layer(self) -> int: ...
    @property
    def names(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def open(self, device: torch.device) -> AbstractContextManager[OpenStates]: ...


@dataclass(frozen=True)
class StoredStates:
    """The shards of these names in a folder (any fsspec URL, of which every machine fetches its own copy)."""

    folder: str
    target_fingerprint: str
    names: Sequence[str]
    digest: str
    bridge_layer: int
    num_captions: int

    def __len__(self) -> int:
        return self.num_captions

    @contextmanager
    def open(self, device: torch.device) -> Iterator[OpenStates]:
        store = StateStore(Path(local_folder(self.folder)), self.target_fingerprint, names=self.names)
        yield OpenStates(store, store.tables())


@dataclass(frozen=True)
class OnlineStates:
    """Captions that each worker's own copy of the target writes."""

    config: DistillRunConfig
    windows: Sequence[OnlineWindow]
    digest: str
    bridge_layer: int

    @property
    def names(self) -> Sequence[str]:
        return [window.name for window in self.windows]

    def __len__(self) -> int:
        return len(self.windows) * self.config.capture.captions_per_window

    @contextmanager
    def open(self, device: torch.device) -> Iterator[OpenStates]:
        config = self.config
        capture = replace(config.capture, keep_embeddings=config.reads_embeddings)
        with worker_engine(WorkerModels(config.target, config.draft, str(device), config.dtype)) as engine:
            windows = OnlineWindows(engine, self.windows, capture)
            yield OpenStates(windows, target_tables(engine.target).in_float32())


def stored_states(
    config: DistillRunConfig, folder: str, info: TargetInfo, names: Sequence[str] | None = None
) -> StoredStates:
    """All shards of a folder, or those of these names. Raises CheckpointError as `StateStore`, and ConfigError where
    they lack what the config's drafter learns from."""
    store = learnable_store(config, Path(local_folder(folder)), info, names)
    return StoredStates(folder, info.fingerprint, store.names, store.digest, store.header.bridge_layer, len(store))


def learnable_store(
    config: DistillRunConfig, folder: Path, info: TargetInfo, names: Sequence[str] | None = None
) -> StateStore:
    """A store of the target's, with all that the config's drafter learns from. Raises as `stored_states`."""
    store = StateStore(folder, info.fingerprint, info.tokenizer_hash, names)
    if config.reads_embeddings and not store.has_embeddings:
        raise ConfigError(f"sees={config.sees} learns from visual embeddings, and {folder} was captured without them")
    return store


def online_states(
    config: DistillRunConfig,
    windows: Sequence[OnlineWindow],
    origin: str,
    info: TargetInfo,
    names: Sequence[str] | None = None,
) -> OnlineStates:
    """All of these windows, or those of these names. `origin` tells apart where they are from and how they are
    captioned."""
    chosen = [window for window in windows if names is None or window.name in names]
    learnt = {"origin": origin, "target": info.fingerprint, "windows": [window.name for window in chosen]}
    return OnlineStates(config, chosen, settings_fingerprint(learnt), bridge_layer(info, config.capture))
