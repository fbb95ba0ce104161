"""File storage: listing, reading and atomic writing of whole files, local or behind any fsspec URL.

The only importer of fsspec. Knows nothing of tables, and of videos only the suffixes that tell them from other files.
Local files are named by plain absolute paths.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.core import url_to_fs

from sparrow_core.errors import ConfigError, MediaError

VIDEO_SUFFIXES = frozenset(
    {
        *{".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"},
        *{".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"},
    }
)


def is_url(path: str) -> bool:
    """Whether a path is a URL with a scheme (`s3://...`, `file:///...`) rather than a plain local path."""
    return "://" in path


def absolute(path: str) -> str:
    """The path in a form that holds in every process: a URL unchanged, a local path made absolute."""
    return path if is_url(path) else str(Path(path).expanduser().absolute())


def list_videos(source: str) -> list[str]:
    """Sorted URIs of a single file, of all videos below a folder (told by suffix), or of the files that match a glob.

    Raises ConfigError if nothing is found.
    """
    root = absolute(source)
    filesystem, path = url_to_fs(root)
    if filesystem.isfile(path):
        found = [path]
    elif filesystem.isdir(path):
        found = [file for file in filesystem.find(path) if Path(file).suffix.lower() in VIDEO_SUFFIXES]
        if not found:
            kinds = " ".join(sorted(VIDEO_SUFFIXES))
            raise ConfigError(f"input folder {source} holds no file with a video's suffix ({kinds}); a glob takes any")
    else:
        found = [file for file in filesystem.glob(path) if filesystem.isfile(file)]
        if not found:
            raise ConfigError(f"input {source} matches no file; give a file, a folder, a glob or an fsspec URL")
    names = [str(filesystem.unstrip_protocol(file)) if is_url(root) else _local_uri(str(file)) for file in found]
    return sorted(set(names))


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """Give the local path of a file; a remote file is downloaded, and the copy removed when the context ends.

    Raises MediaError (reason "missing") if there is no such file.
    """
    if not is_url(uri) or uri.startswith("file://"):
        path = Path(unquote(urlsplit(uri).path, errors="surrogateescape") if is_url(uri) else uri)
        if not path.is_file():
            raise MediaError(f"{uri} is not there any more; run again once it is back", reason="missing")
        yield path
        return
    folder = tempfile.mkdtemp(prefix="sparrow-")
    try:
        path = Path(folder) / f"video{Path(urlsplit(uri).path).suffix}"
        with fsspec.open(uri, "rb") as remote, path.open("wb") as local:
            shutil.copyfileobj(remote, local, 2**20)
        yield path
    except FileNotFoundError as error:
        raise MediaError(f"{uri} is not there any more; run again once it is back", reason="missing") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def local_folder(source: str) -> str:
    """The local path of a folder. A URL is mirrored into a local folder first; any other `source` is returned as it is.

    The mirror is kept for later calls, which fetch new files and those whose size has changed. It holds only the files
    directly in the folder, and keeps those that were removed from the URL.
    """
    if not is_url(source):
        return source
    path = Path(tempfile.gettempdir()) / "sparrow-folders" / hashlib.sha256(source.encode()).hexdigest()[:16]
    remote, mirror = Folder(source), Folder(str(path))
    mirrored = mirror.sizes()
    for name, size in remote.sizes().items():
        if mirrored.get(name) != size and (content := remote.read(name)) is not None:
            mirror.write(name, content)
    return str(path)


class Folder:
    """An output folder of whole files. Writing is atomic: a file is there in full or not at all."""

    def __init__(self, url: str) -> None:
        self.url = absolute(url).rstrip("/")
        self._filesystem, self._root = url_to_fs(self.url)
        self._is_local = not is_url(self.url) or self.url.startswith("file://")

    def sizes(self, subfolder: str = "") -> dict[str, int]:
        """Size in bytes of each file directly in `subfolder`, sorted by name; {} if the subfolder does not exist."""
        path = self._path(subfolder)
        if not self._filesystem.isdir(path):
            return {}
        self._filesystem.invalidate_cache()
        entries = [entry for entry in self._filesystem.ls(path, detail=True) if entry["type"] == "file"]
        return dict(sorted((Path(entry["name"]).name, int(entry["size"])) for entry in entries))

    def names(self, subfolder: str = "") -> list[str]:
        """Sorted names of the files directly in `subfolder`; [] if the subfolder does not exist."""
        return list(self.sizes(subfolder))

    def num_bytes(self, prefix: str = "") -> int:
        """Total size of the files directly in the folder whose names start with `prefix`; 0 if there are none."""
        return sum(size for name, size in self.sizes().items() if name.startswith(prefix))

    def read(self, name: str, num_bytes: int | None = None) -> bytes | None:
        """Content of a file, or its first `num_bytes`; None if there is no such file."""
        try:
            return bytes(self._filesystem.cat_file(self._path(name), end=num_bytes))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file atomically: by a rename on a local disk, by a single upload to an object store."""
        path = self._path(name)
        self._filesystem.makedirs(str(Path(path).parent) if self._is_local else path.rpartition("/")[0], exist_ok=True)
        if not self._is_local:
            self._filesystem.pipe_file(path, content)
            return
        # The leading dot hides the file from readers of Parquet folders.
        temporary = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}.tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


def _local_uri(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:  # an Arrow string must be UTF-8, so other names are percent-encoded
        return Path(path).as_uri()
    return path
