"""What a drafter learns from, as a value that every training worker opens for itself: states that were stored, or a
target that writes captions beside the training."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.capture_graph import RequestSource
from pipeline.distill_config import DistillRunConfig
from pipeline.storage import local_folder
from pipeline.worker_engine import WorkerModels, worker_engine
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.distill.online import OnlineWindows
from sparrow_core.distill.recorder import bridge_layer
from sparrow_core.distill.store import StateStore, TargetTables, target_tables
from sparrow_core.distill.trainer import WindowSource
from sparrow_core.errors import ConfigError


class OpenStates(NamedTuple):
    """Captions to learn from, and what training needs of their target."""

    windows: WindowSource
    tables: TargetTables


class StateSource(Protocol):
    """`digest` identifies all that is learnt from, `len` counts captions."""

    @property
    def digest(self) -> str: ...
    @property
    def bridge_layer(self) -> int: ...
    @property
    def shards(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def open(self) -> AbstractContextManager[OpenStates]: ...


@dataclass(frozen=True)
class StoredStates:
    """The shards of these names in a folder (any fsspec URL, of which every machine fetches its own copy)."""

    folder: str
    target_fingerprint: str
    shards: Sequence[str]
    digest: str
    bridge_layer: int
    num_captions: int

    def __len__(self) -> int:
        return self.num_captions

    @contextmanager
    def open(self) -> Iterator[OpenStates]:
        store = StateStore(Path(local_folder(self.folder)), self.target_fingerprint, names=self.shards)
        yield OpenStates(store, store.tables())


@dataclass(frozen=True)
class OnlineStates:
    """Captions that each worker's own copy of the target writes. `digest` tells windows and ways of capturing apart."""

    config: DistillRunConfig
    requests: RequestSource
    digest: str
    bridge_layer: int
    shards: Sequence[str] = ()

    def __len__(self) -> int:
        return self.config.num_windows * self.config.capture.captions_per_window

    @contextmanager
    def open(self) -> Iterator[OpenStates]:
        config = self.config
        capture = replace(config.capture, keep_embeddings=config.reads_embeddings)
        with worker_engine(WorkerModels(config.target, config.draft, config.device, config.dtype)) as engine:
            windows = OnlineWindows(engine, self.requests, config.num_windows, capture)
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


def online_states(config: DistillRunConfig, requests: RequestSource, origin: str, info: TargetInfo) -> OnlineStates:
    """Windows 0 to `config.num_windows` of `requests`; `origin` tells them, and how they are captioned, apart."""
    return OnlineStates(config, requests, f"{origin}-{config.num_windows}", bridge_layer(info, config.capture))
