"""Files of captured hidden states (safetensors): names, headers, and the bytes of shards and of the target's tables.

    target_tables.safetensors     the target's embedding and lm_head
    shard-<window>.safetensors    one window with its captions

Every file has a `StoreHeader` in its metadata. This module does not know where the bytes go; `store.py` reads a folder
of such files.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from sparrow_core.decoding.target import TargetModel
from sparrow_core.distill.hidden_states import CapturedCaption, CapturedWindow
from sparrow_core.distill.target_tables import TargetTables
from sparrow_core.errors import CheckpointError

SCHEMA_VERSION = 2
TABLES_FILE = "target_tables.safetensors"
HEADER_BYTES = 4096  # the first bytes of TABLES_FILE, enough to hold its header
SHARD_PREFIX, _SUFFIX = "shard-", ".safetensors"


@dataclass(frozen=True)
class StoreHeader:
    """Metadata of every file: what the hidden states were captured from.

    `settings` is a digest of whatever else decides a window's contents. Windows of different settings may be trained on
    together, those of different targets or bridge layers may not. `source_uri` is the video of the window, if any.
    """

    fingerprint: str
    tokenizer_hash: str
    hidden_size: int
    vocab_size: int
    bridge_layer: int
    settings: str
    schema_version: int = SCHEMA_VERSION
    source_uri: str | None = None

    @staticmethod
    def of(target: TargetModel, bridge_layer: int, settings: str) -> "StoreHeader":
        """The header of what is captured from a loaded target."""
        info = target.info
        return StoreHeader(
            fingerprint=info.fingerprint,
            tokenizer_hash=info.tokenizer_hash,
            hidden_size=info.hidden_size,
            vocab_size=info.vocab_size,
            bridge_layer=bridge_layer,
            settings=settings,
        )

    def conflicts(self, other: "StoreHeader") -> Iterator[tuple[str, Any, Any]]:
        """Name, own value and other value of each field whose difference forbids training on both headers' windows."""
        for key in ("fingerprint", "tokenizer_hash", "hidden_size", "vocab_size", "bridge_layer"):
            if getattr(self, key) != getattr(other, key):
                yield key, getattr(self, key), getattr(other, key)


def shard_name(window: str) -> str:
    """File name of a window's shard."""
    return f"{SHARD_PREFIX}{window}{_SUFFIX}"


def window_of_shard(file: str) -> str | None:
    """The window whose shard has this file name; None if it is not the name of a shard."""
    is_shard = file.startswith(SHARD_PREFIX) and file.endswith(_SUFFIX)
    return file[len(SHARD_PREFIX) : -len(_SUFFIX)] if is_shard else None


def tables_file(tables: TargetTables, header: StoreHeader) -> bytes:
    """Content of TABLES_FILE."""
    tensors = {"embed_tokens": tables.embed_tokens_VD.contiguous(), "lm_head": tables.lm_head_VD.contiguous()}
    return save(tensors, metadata={"header": json.dumps(asdict(header))})


def read_tables(path: Path) -> TargetTables:
    """What `tables_file` was given."""
    tensors = load_file(path)
    return TargetTables(tensors["embed_tokens"], tensors["lm_head"])


def refuse_other_target(tables: bytes, header: StoreHeader, folder: str) -> None:
    """Raise CheckpointError if new windows with `header` cannot join a folder whose TABLES_FILE begins with `tables`
    (HEADER_BYTES of it): they are of another target or bridge layer, or the file is damaged."""
    size = int.from_bytes(tables[:8], "little")  # safetensors begins with the length of its JSON header
    try:
        have = StoreHeader(**json.loads(json.loads(tables[8 : 8 + size])["__metadata__"]["header"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}/{TABLES_FILE} is damaged ({error}): remove it") from error
    for key, there, here in have.conflicts(header):
        raise CheckpointError(
            f"{folder} holds hidden states captured with {key}={there!r}, these would have {here!r}: "
            "capture into another folder"
        )


def shard_file(window: CapturedWindow, header: StoreHeader) -> bytes:
    """Content of a shard. Every tensor is stored in the dtype that it was computed in."""
    tensors = {
        "prompt_ids": window.prompt_ids_T.to(torch.int32),
        "prompt_slots": window.prompt_slots_T.to(torch.int32),
        "prompt_states": window.prompt_hidden_TD,
        "bridge_slots": window.bridge_slots_U.to(torch.int32),
        "bridge": window.bridge_UD,
        "embeddings": window.embeddings_MD,
        "caption_ids": torch.cat([caption.token_ids_C for caption in window.captions]).to(torch.int32),
        "caption_states": torch.cat([caption.hidden_CD for caption in window.captions]),
        "caption_lengths": torch.tensor([len(caption.token_ids_C) for caption in window.captions]),
    }
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(contiguous, metadata={"header": json.dumps(asdict(header))})


def read_shard(path: Path) -> tuple[CapturedWindow, StoreHeader]:
    """What `shard_file` was given. Raises CheckpointError for a damaged file or another schema version."""
    header = read_header(path)
    return read_window(path), header


def read_window(path: Path) -> CapturedWindow:
    """The window of a shard whose header has been checked."""
    tensors = load_file(path)
    lengths = tensors["caption_lengths"].tolist()
    ids = tensors["caption_ids"].split(lengths)
    hidden = tensors["caption_states"].split([length - 1 for length in lengths])
    return CapturedWindow(
        prompt_ids_T=tensors["prompt_ids"],
        prompt_slots_T=tensors["prompt_slots"],
        prompt_hidden_TD=tensors["prompt_states"],
        bridge_slots_U=tensors["bridge_slots"],
        bridge_UD=tensors["bridge"],
        embeddings_MD=tensors["embeddings"],
        captions=tuple(CapturedCaption(*parts) for parts in zip(ids, hidden, strict=True)),
    )


def read_header(path: Path) -> StoreHeader:
    """The header of a shard or of TABLES_FILE. Raises CheckpointError for a damaged file or another schema version."""
    with opened(path) as (header, _):
        return header


@contextmanager
def opened(path: Path) -> Iterator[tuple[StoreHeader, Any]]:
    """The header of a file and its safetensors handle, open. Raises CheckpointError as `read_header`."""
    try:
        with safe_open(path, framework="pt") as file:
            found: Mapping[str, Any] = json.loads(file.metadata()["header"])
            version = found["schema_version"]
            if version != SCHEMA_VERSION:
                raise CheckpointError(
                    f"{path} has schema {version}, this version reads {SCHEMA_VERSION}: capture into a new folder"
                )
            yield StoreHeader(**found), file
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): remove it and capture its window again") from error
