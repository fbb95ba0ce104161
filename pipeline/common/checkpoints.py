"""Identity of a checkpoint, read from its files alone, so that the driver can name windows without loading a model.

Settings and window ids are built from this identity of files. The identity of loaded weights (the target's fingerprint,
which drafters refer to) belongs to `sparrow_core.targets` and is a column of the caption table.
"""

import hashlib
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from pipeline.common.registry import drafter_in_use
from pipeline.common.storage import is_url, local_folder
from sparrow_core.drafters.artefact import is_drafter
from sparrow_core.errors import CheckpointError

_SAMPLES_PER_FILE = 256
_SAMPLE_BYTES = 4096
_WHOLE_BELOW_BYTES = 4 * 2**20


def checkpoint_identity(source: str) -> str:
    """Hash of a checkpoint folder's configs and sampled weights, or the commit of a hub id.

    Raises CheckpointError if `source` is neither a checkpoint folder nor a known hub id.
    """
    folder = Path(local_folder(source)).expanduser()
    if folder.is_dir():
        return _folder_identity(folder)
    try:
        return str(HfApi().model_info(source).sha)
    except HFValidationError as error:
        raise CheckpointError(f"{source!r} is neither a checkpoint folder nor a hub id such as org/name") from error
    except (HfHubHTTPError, OSError) as error:
        return _cached_commit(source, error)


def worker_draft(draft: str | None) -> str | None:
    """A drafter as worker processes must name it; a registry is replaced by its drafter in use."""
    return worker_path(drafter_in_use(draft)) if draft else None


def worker_path(source: str) -> str:
    """A checkpoint as worker processes must name it: a folder by its absolute path, a hub id as it is."""
    folder = Path(source).expanduser()
    return str(folder.absolute()) if folder.is_dir() else source


def checkpoint_name(source: str) -> str:
    """The name of a checkpoint in tables: the folder's own name (its path is this machine's), or the hub id."""
    folder = Path(source).expanduser()
    return folder.name if folder.is_dir() or is_url(source) else source


def _folder_identity(folder: Path) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"checkpoint folder {folder} holds no *.safetensors file")
    if is_drafter(folder):  # its other JSON files record its training and are no part of its identity
        configs = [folder / "config.json"]
    else:
        configs = sorted(file for file in folder.glob("*.json") if file.name != "trainer_state.json")
    digest = hashlib.sha256()
    for file in (*configs, *sorted(folder.glob("*.jinja")), *weights):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        digest.update(file.read_bytes() if size <= _WHOLE_BELOW_BYTES else _samples(file, size))
    return digest.hexdigest()[:16]


def _samples(file: Path, size: int) -> bytes:
    """The first MiB of a large file (with the safetensors header of names and shapes) and evenly spaced samples."""
    with file.open("rb") as stream:
        pieces = [stream.read(2**20)]
        for index in range(_SAMPLES_PER_FILE):
            stream.seek((size - _SAMPLE_BYTES) * index // (_SAMPLES_PER_FILE - 1))
            pieces.append(stream.read(_SAMPLE_BYTES))
    return b"".join(pieces)


def _cached_commit(source: str, cause: Exception) -> str:
    """Commit of a hub id in the local cache, for machines without a network."""
    try:
        return Path(snapshot_download(source, local_files_only=True)).name
    except (LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"there is no folder {source!r}, and the hub has no such checkpoint or cannot be reached: {cause}"
        ) from error
