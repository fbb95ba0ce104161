"""The media guard: a `video_url` may embed a video as a data URL or name a file below one folder; the default is deny.

Owns the decision and opens no video. Anything that is not clearly allowed is refused, and a refusal does not reveal
whether a file outside the folder exists.
"""

import base64
import binascii
import re
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pipeline.serving.config import MediaLimits
from pipeline.serving.errors import ApiError

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DATA = re.compile(r"data:video/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def resolve_video_url(url: str, root: Path | None, limits: MediaLimits) -> Path | bytes:
    """The file or the bytes that an allowed URL refers to.

    `root` is a resolved folder, or None if no file may be read. A file below it may be named by a `file://` URL
    (percent-encoded), by an absolute path, or by a path relative to `root`. Raises ApiError: 403 for what is not
    allowed, 400 for a malformed URL, 413 over a size limit, 422 for a file that does not exist.
    """
    scheme = _SCHEME.match(url)
    name = scheme.group(1).lower() if scheme else None
    if name == "data":
        return _embedded(url)
    if name == "file":
        return _file(_path_of_file_url(url), root, limits)
    if name is None:
        return _file(url, root, limits)
    raise _refused(f"{name}: URLs are not fetched; send the video as a data: URL, or name a file under the media root")


def _embedded(url: str) -> bytes:
    header = _DATA.match(url)
    if header is None:
        raise ApiError(400, "a data: URL must begin with data:video/<type>;base64,", code="invalid_url")
    try:
        return base64.b64decode(url[header.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"the data: URL is not valid base64: {error}", code="invalid_url") from error


def _path_of_file_url(url: str) -> str:
    """The path of a file URL, percent-decoded exactly once: what is still encoded then is part of the name."""
    rest = url[len("file:") :]
    if not rest.startswith("//"):
        raise ApiError(400, "a file URL must have the form file:///path", code="invalid_url")
    host, slash, path = rest[2:].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise _refused("a file URL must not name a host, as in file:///path")
    if "?" in path or "#" in path:
        raise ApiError(400, "a file URL must percent-encode ? and # of a file name", code="invalid_url")
    try:
        return "/" + unquote_to_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "the path of the file URL is not UTF-8", code="invalid_url") from error


def _file(path: str, root: Path | None, limits: MediaLimits) -> Path:
    if root is None:
        raise _refused("this endpoint reads no files; send the video as a data: URL")
    if not path or _CONTROL.search(path):
        raise ApiError(400, "a path must not be empty or contain control characters", code="invalid_url")
    if ".." in path.split("/"):
        raise _refused("a path must not contain '..'")
    try:
        file = (root / path).resolve()
        if not file.is_relative_to(root):
            raise _refused("the path lies outside of the media root")
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ApiError(422, f"there is no file {path!r} under the media root", code="missing") from error
    except (OSError, RuntimeError) as error:  # no permission, a name that is too long, a loop of symbolic links
        raise _refused("the path cannot be read") from error
    if not stat.S_ISREG(status.st_mode):
        raise _refused("the path does not name a regular file")
    if status.st_size > limits.max_file_bytes:
        message = f"the file of {status.st_size} bytes is over this endpoint's limit of {limits.max_file_bytes} bytes"
        raise ApiError(413, message, code="too_large")
    return file


def _refused(message: str) -> ApiError:
    return ApiError(403, message, code="media_refused")
