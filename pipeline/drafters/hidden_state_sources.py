"""What a drafter learns from, as a value that every training worker opens for itself: states that were stored, or a
target that writes captions beside the training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from pipeline.common.ids import settings_fingerprint
from pipeline.common.storage import Folder, local_folder
from pipeline.common.worker_engine import WorkerModels, worker_engine
from pipeline.drafters.config import DistillRunConfig
from sparrow_core.decoding.target import TargetInfo
from sparrow_core.distill.online import OnlineExamples, OnlineWindow
from sparrow_core.distill.recorder import bridge_layer
from sparrow_core.distill.shards import window_of_shard
from sparrow_core.distill.store import HiddenStateStore
from sparrow_core.distill.target_tables import TargetTables, target_tables
from sparrow_core.distill.trainer import ExampleSource
from sparrow_core.errors import CheckpointError, ConfigError


class OpenedSource(NamedTuple):
    """Captions to learn from, and what training needs of their target."""

    examples: ExampleSource
    tables: TargetTables


class HiddenStateSource(Protocol):
    """`digest` identifies all that is learnt from, `num_captions` counts it by window. A worker opens it on the device
    that it trains on."""

    @property
    def digest(self) -> str: ...
    @property
    def bridge_layer(self) -> int: ...
    @property
    def num_captions(self) -> Mapping[str, int]: ...
    def open(self, device: torch.device) -> AbstractContextManager[OpenedSource]: ...


@dataclass(frozen=True)
class StoredHiddenStates:
    """Shards in a folder (any fsspec URL, of which every machine fetches its own copy)."""

    folder: str
    target_fingerprint: str
    num_captions: Mapping[str, int]
    digest: str
    bridge_layer: int

    @contextmanager
    def open(self, device: torch.device) -> Iterator[OpenedSource]:
        store = HiddenStateStore(
            Path(local_folder(self.folder)), self.target_fingerprint, names=list(self.num_captions)
        )
        yield OpenedSource(store, store.tables())


@dataclass(frozen=True)
class OnlineHiddenStates:
    """Captions that each worker's own copy of the target writes."""

    config: DistillRunConfig
    windows: Sequence[OnlineWindow]
    digest: str
    bridge_layer: int

    @property
    def num_captions(self) -> Mapping[str, int]:
        return {window.name: self.config.capture.captions_per_window for window in self.windows}

    @contextmanager
    def open(self, device: torch.device) -> Iterator[OpenedSource]:
        config = self.config
        capture = replace(config.capture, keep_embeddings=config.reads_embeddings)
        with worker_engine(WorkerModels(config.target, config.draft, str(device), config.dtype)) as engine:
            examples = OnlineExamples(engine, self.windows, capture)
            yield OpenedSource(examples, target_tables(engine.target).in_float32())


def stored_hidden_states(
    config: DistillRunConfig, folder: str, info: TargetInfo, names: Sequence[str] | None = None
) -> StoredHiddenStates:
    """All shards of a folder, or those of these names. Raises CheckpointError as `HiddenStateStore`, and ConfigError
    where they lack what the config's drafter learns from."""
    store = _open_store(folder, (info.fingerprint, info.tokenizer_hash), names)
    if config.reads_embeddings and not store.has_embeddings:
        raise ConfigError(
            f"sees={config.sees} learns from visual embeddings, and {folder} was captured without them, or in part: "
            "capture into a new folder with capture.keep.keep_embeddings=true"
        )
    return StoredHiddenStates(folder, info.fingerprint, store.num_captions, store.digest, store.header.bridge_layer)


def captured_videos(folder: str) -> frozenset[str]:
    """Videos that the stored windows of a folder are of. Raises CheckpointError as `HiddenStateStore`."""
    return frozenset(_open_store(folder).videos)


def _open_store(
    folder: str, target: tuple[str | None, str | None] = (None, None), names: Sequence[str] | None = None
) -> HiddenStateStore:
    """A folder's own copy on this machine; `target` is its fingerprint and tokenizer hash."""
    copy = local_folder(folder)
    if names is None:  # the copy may hold shards that the folder does not hold any more
        names = [file for file in Folder(folder).names() if window_of_shard(file)]
    try:
        return HiddenStateStore(Path(copy), *target, names)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(copy, folder)) from error


def online_hidden_states(
    config: DistillRunConfig,
    windows: Sequence[OnlineWindow],
    origin: str,
    info: TargetInfo,
    names: Sequence[str] | None = None,
) -> OnlineHiddenStates:
    """All of these windows, or those of these names. `origin` tells apart where they are from and how they are
    captioned."""
    chosen = [window for window in windows if names is None or window.name in names]
    learnt = {"origin": origin, "target": info.fingerprint, "windows": [window.name for window in chosen]}
    return OnlineHiddenStates(config, chosen, settings_fingerprint(learnt), bridge_layer(info, config.capture))
