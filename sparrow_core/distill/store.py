"""Captured windows as safetensors shards in one folder, each complete or absent, all of one target.

Owns the format, and the refusal of what does not belong together. It does not know how windows are captured, used, or
where the bytes go.

    FOLDER/target_tables.safetensors     the target's embedding and lm_head: all that training needs of it
    FOLDER/shard-<window>.safetensors    a window with its captions; header: schema version, fingerprint, settings

A shard is named by its window, so that a capture that is run again adds only what is missing.

Shape letters: P text tokens of a prompt, C caption tokens, M bridge tokens, V visual tokens, D hidden size.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from sparrow_core.decoding.target import TargetModel
from sparrow_core.distill.hidden_states import CapturedCaption, CapturedWindow, TrainingExample, training_example
from sparrow_core.errors import CheckpointError

SCHEMA_VERSION = 2
_ROWS_AT_ONCE = 256  # of the target's matrices, which are not copied whole on its device
TABLES_FILE = "target_tables.safetensors"
HEADER_BYTES = 4096  # at the beginning of TABLES_FILE, hold all of its header
SHARD_PREFIX, _SUFFIX = "shard-", ".safetensors"


@dataclass(frozen=True)
class StoreHeader:
    """What is written into every shard. `settings` is a digest of whatever else decides a window's contents; windows
    of different settings may be learnt together, those of different targets or bridge layers may not. `source_uri` is
    the window's video, if it is of one."""

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


@dataclass(frozen=True)
class TargetTables:
    """The two matrices of the target that a drafter reads: embedding and lm_head, both [V, D]."""

    embed_tokens_VD: torch.Tensor
    lm_head_VD: torch.Tensor

    def in_float32(self) -> "TargetTables":
        return TargetTables(self.embed_tokens_VD.float(), self.lm_head_VD.float())


def target_tables(target: TargetModel) -> TargetTables:
    """Embedding and lm_head as plain matrices, read off through the target's own functions."""
    info = target.info
    ids = torch.arange(info.vocab_size, device=info.device).split(_ROWS_AT_ONCE)
    units = torch.eye(info.hidden_size, device=info.device, dtype=info.dtype).split(_ROWS_AT_ONCE)
    with torch.no_grad():
        embed_tokens_VD = torch.cat([target.embed_tokens(some).cpu() for some in ids])
        lm_head_DV = torch.cat([target.logits(some).to(info.dtype).cpu() for some in units])
    return TargetTables(embed_tokens_VD, lm_head_DV.T.contiguous())


def tables_file(tables: TargetTables, header: StoreHeader) -> bytes:
    """Content of TABLES_FILE."""
    tensors = {"embed_tokens": tables.embed_tokens_VD.contiguous(), "lm_head": tables.lm_head_VD.contiguous()}
    return save(tensors, metadata={"header": json.dumps(asdict(header))})


def refuse_other_target(tables: bytes, header: StoreHeader, folder: str) -> None:
    """Raise CheckpointError where a folder's TABLES_FILE, of which these are the first HEADER_BYTES, is of another
    target or bridge layer than what is to be captured."""
    size = int.from_bytes(tables[:8], "little")  # as safetensors has it: then as many bytes of JSON
    try:
        have = StoreHeader(**json.loads(json.loads(tables[8 : 8 + size])["__metadata__"]["header"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}/{TABLES_FILE} is damaged ({error}): remove it") from error
    for key, there, here in _differences(have, header):
        raise CheckpointError(
            f"{folder} holds states captured with {key}={there!r}, these would have {here!r}: "
            "capture into another folder"
        )


def shard_name(window: str) -> str:
    """File name of a window's shard."""
    return f"{SHARD_PREFIX}{window}{_SUFFIX}"


def window_of_shard(file: str) -> str | None:
    """The window whose shard has this file name; None if it is no shard's."""
    is_shard = file.startswith(SHARD_PREFIX) and file.endswith(_SUFFIX)
    return file[len(SHARD_PREFIX) : -len(_SUFFIX)] if is_shard else None


def shard_file(window: CapturedWindow, header: StoreHeader) -> bytes:
    """Content of a shard. Every tensor is stored in the dtype that it was computed in."""
    tensors = {
        "prompt_ids": window.prompt_ids_P.to(torch.int32),
        "prompt_slots": window.prompt_slots_P.to(torch.int32),
        "prompt_states": window.prompt_hidden_PD,
        "bridge_slots": window.bridge_slots_M.to(torch.int32),
        "bridge": window.bridge_MD,
        "embeddings": window.embeddings_VD,
        "caption_ids": torch.cat([caption.token_ids_C for caption in window.captions]).to(torch.int32),
        "caption_states": torch.cat([caption.hidden_CD for caption in window.captions]),
        "caption_lengths": torch.tensor([len(caption.token_ids_C) for caption in window.captions]),
    }
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(contiguous, metadata={"header": json.dumps(asdict(header))})


def read_shard(path: Path) -> tuple[CapturedWindow, StoreHeader]:
    """What `shard_file` was given. Raises CheckpointError for a damaged file, or one of another schema."""
    header = _read_header(path)
    return _read_window(path), header


def _read_window(path: Path) -> CapturedWindow:
    tensors = load_file(path)
    lengths = tensors["caption_lengths"].tolist()
    ids = tensors["caption_ids"].split(lengths)
    states = tensors["caption_states"].split([length - 1 for length in lengths])
    return CapturedWindow(
        prompt_ids_P=tensors["prompt_ids"],
        prompt_slots_P=tensors["prompt_slots"],
        prompt_hidden_PD=tensors["prompt_states"],
        bridge_slots_M=tensors["bridge_slots"],
        bridge_MD=tensors["bridge"],
        embeddings_VD=tensors["embeddings"],
        captions=tuple(CapturedCaption(*parts) for parts in zip(ids, states, strict=True)),
    )


class HiddenStateStore:
    """All captions of a folder, or of the shards of these names in it, in the order of the names. Nothing stays in
    memory but where they are.

    Every shard's header is looked at here: raises CheckpointError if there is none, if one is damaged, of another
    schema, or of another target or tokenizer than the others or than `fingerprint` and `tokenizer_hash`, and if no
    caption is long enough to learn from.
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
        self.header = _read_header(self._shards[0])
        for what, have, want in (
            ("target", self.header.fingerprint, fingerprint),
            ("a target with tokenizer", self.header.tokenizer_hash, tokenizer_hash),
        ):
            if want is not None and have != want:
                raise CheckpointError(
                    f"{folder} was captured from {what} {have}, not {want}: capture into a new folder"
                )
        self.has_embeddings = True  # of every window
        self.videos: set[str] = set()  # that windows are of
        self._settings: list[str] = []
        self._places: list[tuple[Path, int]] = []
        longest = 0
        for path in self._shards:
            shard = _look_into(path)
            _refuse_stranger(path, shard.header, self._shards[0], self.header)
            self._settings.append(shard.header.settings)
            self._places += [(path, number) for number in range(len(shard.caption_lengths))]
            self.has_embeddings &= shard.has_embeddings
            if shard.header.source_uri:
                self.videos.add(shard.header.source_uri)
            longest = max(longest, *shard.caption_lengths)
        if longest < 2:
            raise CheckpointError(f"no caption in {folder} has two tokens or more: nothing can be learnt from it")
        _refuse_stranger(folder / TABLES_FILE, _read_header(folder / TABLES_FILE), self._shards[0], self.header)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_captions(self) -> dict[str, int]:
        """By shard."""
        return dict(Counter(path.name for path, _ in self._places))

    def windows(self, indices: Sequence[int]) -> list[TrainingExample]:
        """Captions of these indices, each with its window."""
        places = [self._places[index] for index in indices]
        return [training_example(_read_window(path), number) for path, number in places]  # headers were read before

    @property
    def digest(self) -> str:
        """Identifies what the store holds: 16 hex digits of the target and of the shards' names, sizes and settings."""
        sizes = [path.stat().st_size for path in self._shards]
        listing = [
            self.header.fingerprint,
            self.header.bridge_layer,
            *zip(self.names, sizes, self._settings, strict=True),
        ]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    def tables(self) -> TargetTables:
        """The target's matrices, to train with."""
        tensors = load_file(self.folder / TABLES_FILE)
        return TargetTables(tensors["embed_tokens"], tensors["lm_head"]).in_float32()


class _Shard(NamedTuple):
    """What a store must know of a window."""

    header: StoreHeader
    caption_lengths: Sequence[int]
    has_embeddings: bool


def _look_into(path: Path) -> _Shard:
    with _opened(path) as (header, file):
        lengths = file.get_tensor("caption_lengths").tolist()
        return _Shard(header, lengths, file.get_slice("embeddings").get_shape()[0] > 0)


def _read_header(path: Path) -> StoreHeader:
    with _opened(path) as (header, _):
        return header


@contextmanager
def _opened(path: Path) -> Iterator[tuple[StoreHeader, Any]]:
    """A file with its header. Raises CheckpointError for a damaged one, and one of another schema."""
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


def _refuse_stranger(path: Path, header: StoreHeader, first_path: Path, first: StoreHeader) -> None:
    for key, have, want in _differences(header, first):
        raise CheckpointError(
            f"{path} was captured with {key}={have!r}, but {first_path.name} beside it with {want!r}: "
            "keep them in separate folders"
        )


def _differences(one: StoreHeader, other: StoreHeader) -> Iterator[tuple[str, Any, Any]]:
    """What keeps states of two headers from being learnt together."""
    for key in ("fingerprint", "tokenizer_hash", "hidden_size", "vocab_size", "bridge_layer"):
        if getattr(one, key) != getattr(other, key):
            yield key, getattr(one, key), getattr(other, key)
