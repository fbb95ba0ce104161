"""Sources of hidden states to train on, as picklable values that each training worker opens for itself: shards in a
folder, or a target that captures captions online."""

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
    """Training examples, and the target's embedding and lm_head tables that training needs."""

    examples: ExampleSource
    tables: TargetTables


class HiddenStateSource(Protocol):
    """`digest` identifies the training data, `num_captions` counts captions by window. A worker opens the source on the
    device that it trains on."""

    @property
    def digest(self) -> str: ...
    @property
    def bridge_layer(self) -> int: ...
    @property
    def num_captions(self) -> Mapping[str, int]: ...
    def open(self, device: torch.device) -> AbstractContextManager[OpenedSource]: ...


@dataclass(frozen=True)
class StoredHiddenStates:
    """Shards in a folder or behind any fsspec URL, from which each machine fetches its own copy."""

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
    """Captions that each worker's own copy of the target generates while the drafter is trained."""

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
    """All shards of a folder, or those with these names.

    Raises CheckpointError as `HiddenStateStore` does, and ConfigError if the config needs visual embeddings that the
    shards lack.
    """
    store = _open_store(folder, (info.fingerprint, info.tokenizer_hash), names)
    if config.reads_embeddings and not store.has_embeddings:
        raise ConfigError(
            f"sees={config.sees} needs visual embeddings, and some or all of {folder} was captured without them: "
            "capture into a new folder with capture.keep.keep_embeddings=true"
        )
    return StoredHiddenStates(folder, info.fingerprint, store.num_captions, store.digest, store.header.bridge_layer)


def captured_videos(folder: str) -> frozenset[str]:
    """Videos from which the captured windows in a folder come. Raises CheckpointError as `HiddenStateStore` does."""
    return frozenset(_open_store(folder).videos)


def _open_store(
    folder: str, target: tuple[str | None, str | None] = (None, None), names: Sequence[str] | None = None
) -> HiddenStateStore:
    """Open this machine's copy of a folder. `target` is the expected fingerprint and tokenizer hash."""
    copy = local_folder(folder)
    if names is None:  # the copy may hold shards that were since deleted from the folder
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
    """Online capture of all these windows, or of those with these names.

    `origin` identifies the source of the windows and the settings of their capture.
    """
    chosen = [window for window in windows if names is None or window.name in names]
    identity = {"origin": origin, "target": info.fingerprint, "windows": [window.name for window in chosen]}
    return OnlineHiddenStates(config, chosen, settings_fingerprint(identity), bridge_layer(info, config.capture))
