"""The media guard admits allowed videos, and refuses every known way out of its folder."""

import base64
import os
from pathlib import Path

import pytest

from pipeline.serving.config import MediaLimits
from pipeline.serving.errors import ApiError
from pipeline.serving.media_guard import resolve_video_url

LIMITS = MediaLimits(max_file_bytes=100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder next to a secret file, with symbolic links to the secret."""
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (root / "clip.mp4").write_bytes(b"clip")
    (root / "a b%.mp4").write_bytes(b"odd")
    (root / "large.mp4").write_bytes(b"x" * 101)
    (root / "inside" / "link.mp4").symlink_to("../clip.mp4")
    (root / "escape.mp4").symlink_to("../secret.mp4")
    (root / "up").symlink_to("..")
    (root / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "clip.mp4").write_bytes(b"neighbour")
    return root.resolve()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("clip.mp4", "clip.mp4"),
        ("./clip.mp4", "clip.mp4"),
        ("a b%.mp4", "a b%.mp4"),
        ("{root}/clip.mp4", "clip.mp4"),
        ("file://{root}/clip.mp4", "clip.mp4"),
        ("FILE://localhost{root}/clip.mp4", "clip.mp4"),
        ("file://{root}/a%20b%25.mp4", "a b%.mp4"),
        ("inside/link.mp4", "clip.mp4"),
    ],
)
def test_admits_files_under_the_root(root: Path, url: str, name: str) -> None:
    assert resolve_video_url(url.format(root=root), root, LIMITS) == root / name


def test_admits_embedded_videos() -> None:
    content = bytes(range(256))
    url = "data:video/mp4;base64," + base64.b64encode(content).decode()
    assert resolve_video_url(url, None, LIMITS) == content


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "//etc/passwd",
        "file:///etc/passwd",
        "{root}2/clip.mp4",
        "../secret.mp4",
        "inside/../../secret.mp4",
        "inside/../clip.mp4",
        "file://{root}/../secret.mp4",
        "file://{root}/%2e%2e/secret.mp4",
        "file://{root}/%2E./secret.mp4",
        "file://{root}%2f..%2fsecret.mp4",
        "escape.mp4",
        "up/secret.mp4",
        "file://{root}/up/secret.mp4",
        "loop.mp4",
        "inside",
        ".",
        "{root}",
        "file://example.com{root}/clip.mp4",
        "http://127.0.0.1/clip.mp4",
        "https://example.com/clip.mp4",
        "HTTPS://example.com/clip.mp4",
        "ftp://example.com/clip.mp4",
        "concat:clip.mp4",
        "x" * 5000,
    ],
)
def test_refuses_everything_else(root: Path, url: str) -> None:
    with pytest.raises(ApiError) as refusal:
        resolve_video_url(url.format(root=root), root, LIMITS)
    assert (refusal.value.status, refusal.value.code) == (403, "media_refused")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "clip.mp4\x00.txt",
        "cl\nip.mp4",
        "file:clip.mp4",
        "file:///clip.mp4?x=1",
        "file:///clip.mp4#t=1",
        "file:///%ff.mp4",
        "file:///clip%00.mp4",
        "data:video/mp4,abc",
        "data:text/html;base64,YWJj",
        "data:video/mp4;base64,YW Jj",
        "data:video/mp4;base64,!",
    ],
)
def test_malformed_urls_are_bad_requests(root: Path, url: str) -> None:
    with pytest.raises(ApiError) as refusal:
        resolve_video_url(url, root, LIMITS)
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_url")


def test_encoding_is_undone_once_only(root: Path) -> None:
    """A doubly encoded `..` is the name of a file that does not exist, not a way up."""
    for url in (f"file://{root}/%252e%252e/secret.mp4", f"{root}/%2e%2e/secret.mp4"):
        with pytest.raises(ApiError) as refusal:
            resolve_video_url(url, root, LIMITS)
        assert refusal.value.status == 422


def test_a_refusal_does_not_tell_whether_a_file_exists(root: Path) -> None:
    answers = []
    for name in ("secret.mp4", "nothing.mp4"):
        with pytest.raises(ApiError) as refusal:
            resolve_video_url(str(root.parent / name), root, LIMITS)
        answers.append(str(refusal.value))
    assert answers[0] == answers[1]


def test_special_files_and_large_files(root: Path) -> None:
    os.mkfifo(root / "pipe.mp4")
    with pytest.raises(ApiError) as refusal:
        resolve_video_url("pipe.mp4", root, LIMITS)
    assert refusal.value.status == 403
    with pytest.raises(ApiError) as refusal:
        resolve_video_url("large.mp4", root, LIMITS)
    assert (refusal.value.status, refusal.value.code) == (413, "too_large")


def test_a_file_of_exactly_the_limit_is_admitted(root: Path) -> None:
    (root / "full.mp4").write_bytes(b"x" * LIMITS.max_file_bytes)
    assert resolve_video_url("full.mp4", root, LIMITS) == root / "full.mp4"


def test_without_a_root_no_file_is_read(root: Path) -> None:
    with pytest.raises(ApiError) as refusal:
        resolve_video_url(f"file://{root}/clip.mp4", None, LIMITS)
    assert refusal.value.status == 403
