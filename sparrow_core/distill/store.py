"""A folder of captured windows as training examples: which shards are there, whether they belong together, reading.

A shard is named by its window, so that a repeated capture adds only what is missing. The store does not know how
windows are captured or used; `shards.py` has the file format.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sparrow_core.distill.hidden_states import TrainingExample, training_example
from sparrow_core.distill.shards import (
    TABLES_FILE,
    StoreHeader,
    opened,
    read_header,
    read_tables,
    read_window,
    shard_name,
)
from sparrow_core.distill.target_tables import TargetTables
from sparrow_core.errors import CheckpointError


class HiddenStateStore:
    """All captions of a folder, or of its shards of the given names, in the order of the names: a
    `trainer.ExampleSource` that keeps only paths in memory.

    The constructor reads the header of every shard. It raises CheckpointError if there is no shard, if one is damaged,
    has another schema version, or has another target or tokenizer than the others or than `fingerprint` and
    `tokenizer_hash`, and if no caption is long enough to learn from.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str | None = None,
        tokenizer_hash: str | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.folder = folder
        self.names = sorted(names if names is not None else (path.name for path in folder.glob(shard_name("*"))))
        self._shards = [folder / name for name in self.names]
        if not self._shards:
            raise CheckpointError(f"{folder} holds no captured window ({shard_name('*')}): capture first")
        if not (folder / TABLES_FILE).exists():
            raise CheckpointError(f"{folder} lacks {TABLES_FILE}: capture into it once more")
        self.header = read_header(self._shards[0])
        self._refuse_other_target(fingerprint, tokenizer_hash)
        self.has_embeddings = True  # in every shard
        self.videos: set[str] = set()  # URIs of the windows' videos
        self._settings: list[str] = []
        self._captions: list[tuple[Path, int]] = []  # by index: shard, number within the shard
        longest = max(self._add(path) for path in self._shards)
        if longest < 2:
            raise CheckpointError(f"no caption in {folder} has two tokens or more: nothing can be learnt from it")
        self._refuse_stranger(folder / TABLES_FILE, read_header(folder / TABLES_FILE))

    def __len__(self) -> int:
        return len(self._captions)

    @property
    def num_captions(self) -> dict[str, int]:
        """Captions of each shard, by its name."""
        return dict(Counter(path.name for path, _ in self._captions))

    def examples(self, indices: Sequence[int]) -> list[TrainingExample]:
        """The captions of these indices, each with its prompt."""
        captions = [self._captions[index] for index in indices]
        return [training_example(read_window(path), number) for path, number in captions]

    @property
    def digest(self) -> str:
        """Identifies the content: 16 hex digits of the target and of the shards' names, sizes and settings."""
        sizes = [path.stat().st_size for path in self._shards]
        listing = [
            self.header.fingerprint,
            self.header.bridge_layer,
            *zip(self.names, sizes, self._settings, strict=True),
        ]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    def tables(self) -> TargetTables:
        """The target's matrices, in float32."""
        return read_tables(self.folder / TABLES_FILE).in_float32()

    def _add(self, path: Path) -> int:
        """Take a shard's captions in -> the number of tokens of its longest one."""
        with opened(path) as (header, file):
            lengths = file.get_tensor("caption_lengths").tolist()
            has_embeddings = file.get_slice("embeddings").get_shape()[0] > 0
        self._refuse_stranger(path, header)
        self._settings.append(header.settings)
        self._captions += [(path, number) for number in range(len(lengths))]
        self.has_embeddings &= has_embeddings
        if header.source_uri:
            self.videos.add(header.source_uri)
        return max(lengths, default=0)

    def _refuse_other_target(self, fingerprint: str | None, tokenizer_hash: str | None) -> None:
        for what, have, want in (
            ("target", self.header.fingerprint, fingerprint),
            ("a target with tokenizer", self.header.tokenizer_hash, tokenizer_hash),
        ):
            if want is not None and have != want:
                raise CheckpointError(
                    f"{self.folder} was captured from {what} {have}, not {want}: capture into a new folder"
                )

    def _refuse_stranger(self, path: Path, header: StoreHeader) -> None:
        for key, have, want in header.conflicts(self.header):
            raise CheckpointError(
                f"{path} was captured with {key}={have!r}, but {self._shards[0].name} beside it with {want!r}: "
                "keep them in separate folders"
            )
