"""Captured windows on disk: safetensors shards in one folder, each complete or absent, all of one target.

Owns the layout and the refusal to mix targets. It does not know how windows are captured or used.

    FOLDER/target_tables.safetensors    the target's embedding and lm_head: all that training needs of it
    FOLDER/shard-00000.safetensors ...  windows end to end; header: schema version, fingerprint, capture settings
    FOLDER/index.json                   written last: its presence says that the capture is complete

Shape letters: n windows of a shard, L text tokens, M bridge tokens, D hidden size, V vocabulary.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sparrow_core.distill.states import WindowStates
from sparrow_core.errors import CheckpointError

SCHEMA_VERSION = 1
TABLES_FILE = "target_tables.safetensors"
INDEX_FILE = "index.json"


@dataclass(frozen=True)
class StoreHeader:
    """What every file of a store must agree on. `settings` is a digest of whatever decides the windows' contents."""

    fingerprint: str
    tokenizer_hash: str
    hidden_size: int
    vocab_size: int
    bridge_layer: int
    settings: str
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class TargetTables:
    """The two matrices of the target that a drafter reads: embedding and lm_head, both float32 [V, D]."""

    embed_tokens_VD: torch.Tensor
    lm_head_VD: torch.Tensor


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.safetensors"


def save_tables(folder: Path, tables: TargetTables, header: StoreHeader) -> None:
    """Write the target's matrices; the folder is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"embed_tokens": tables.embed_tokens_VD.contiguous(), "lm_head": tables.lm_head_VD.contiguous()}
    _save_atomically(folder / TABLES_FILE, tensors, header)


def save_shard(folder: Path, index: int, windows: Sequence[WindowStates], header: StoreHeader) -> None:
    """Write windows as one shard. States are stored in float16; bridge states, of unbounded scale, in bfloat16."""
    tensors = {
        "token_ids": torch.cat([w.token_ids_L for w in windows]).to(torch.int32),
        "states": torch.cat([w.states_LD for w in windows]).to(torch.float16),
        "is_caption": torch.cat([w.is_caption_L for w in windows]),
        "bridge": torch.cat([w.bridge_MD for w in windows]).to(torch.bfloat16),
        "text_ends": torch.tensor([len(w.token_ids_L) for w in windows]).cumsum(0),
        "bridge_ends": torch.tensor([len(w.bridge_MD) for w in windows]).cumsum(0),
    }
    _save_atomically(folder / shard_name(index), tensors, header)


def has_shard(folder: Path, index: int, header: StoreHeader) -> bool:
    """Whether the shard is there. Raises CheckpointError if it is, but with another header."""
    path = folder / shard_name(index)
    if not path.exists():
        return False
    with safe_open(path, framework="pt") as shard:
        _check_header(path, shard.metadata(), header)
    return True


def seal(folder: Path, num_shards: int, header: StoreHeader) -> None:
    """Check all shards and write the index, which makes the store readable."""
    missing = [shard_name(i) for i in range(num_shards) if not has_shard(folder, i, header)]
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} of {num_shards} shards, first {missing[0]}: rerun it")
    index = {"header": asdict(header), "shards": [shard_name(i) for i in range(num_shards)]}
    temporary = folder / f".{INDEX_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(index, indent=1))
    temporary.replace(folder / INDEX_FILE)


class StateStore:
    """A complete store, read window by window; shards stay mapped, so memory holds only what is used.

    Raises CheckpointError if the store is incomplete, of another schema, or (when `fingerprint` is given) of another
    target.
    """

    def __init__(self, folder: Path, fingerprint: str | None = None) -> None:
        if not (folder / INDEX_FILE).exists():
            raise CheckpointError(f"{folder} holds no complete capture ({INDEX_FILE} is missing): capture first")
        index = json.loads((folder / INDEX_FILE).read_text())
        if index["header"]["schema_version"] != SCHEMA_VERSION:
            raise CheckpointError(
                f"{folder} has schema {index['header']['schema_version']}, this version reads {SCHEMA_VERSION}: "
                "capture into a new folder"
            )
        self.folder = folder
        self.header = StoreHeader(**index["header"])
        if fingerprint is not None and self.header.fingerprint != fingerprint:
            raise CheckpointError(
                f"{folder} was captured from target {self.header.fingerprint}, not {fingerprint}: "
                "capture into a new folder"
            )
        self._shards = [safe_open(folder / name, framework="pt") for name in index["shards"]]
        self._places = [
            (shard_index, start, end, bridge_start, bridge_end)
            for shard_index, shard in enumerate(self._shards)
            for start, end, bridge_start, bridge_end in _spans(shard)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> WindowStates:
        shard_index, start, end, bridge_start, bridge_end = self._places[index]
        shard = self._shards[shard_index]
        return WindowStates(
            token_ids_L=shard.get_slice("token_ids")[start:end],
            states_LD=shard.get_slice("states")[start:end],
            is_caption_L=shard.get_slice("is_caption")[start:end],
            bridge_MD=shard.get_slice("bridge")[bridge_start:bridge_end],
        )

    def caption_masks(self) -> list[torch.Tensor]:
        """`is_caption_L` of every window, without touching the states."""
        masks = [shard.get_tensor("is_caption") for shard in self._shards]
        return [masks[shard_index][start:end] for shard_index, start, end, _, _ in self._places]

    def tables(self) -> TargetTables:
        tensors = load_file(self.folder / TABLES_FILE)
        return TargetTables(embed_tokens_VD=tensors["embed_tokens"], lm_head_VD=tensors["lm_head"])


def _spans(shard: safe_open) -> list[tuple[int, int, int, int]]:
    text_ends = shard.get_tensor("text_ends").tolist()
    bridge_ends = shard.get_tensor("bridge_ends").tolist()
    return list(zip([0, *text_ends], text_ends, [0, *bridge_ends], bridge_ends, strict=False))


def _check_header(path: Path, metadata: Mapping[str, str], header: StoreHeader) -> None:
    found = json.loads(metadata["header"])
    differing = {key: value for key, value in asdict(header).items() if found.get(key) != value}
    if differing:
        key, value = next(iter(differing.items()))
        raise CheckpointError(
            f"{path} was captured with {key}={found.get(key)!r}, not {value!r}: capture into a new folder"
        )


def _save_atomically(path: Path, tensors: dict[str, torch.Tensor], header: StoreHeader) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"header": json.dumps(asdict(header))})
    temporary.replace(path)
