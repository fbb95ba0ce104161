"""Listing inputs and writing whole files, on the local disk and behind an fsspec URL."""

import os
import tempfile
from pathlib import Path

import fsspec
import pytest

from pipeline.common.storage import Folder, list_videos, local_copy, local_folder
from sparrow_core.errors import ConfigError, MediaError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("b clip.mp4", "a.MKV", "sub/c.webm", "notes.txt", "odd [1].mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "videos"


def names(uris: list[str]) -> list[str]:
    return [Path(uri).name for uri in uris]


def test_folder_lists_videos_at_any_depth(videos: Path) -> None:
    assert names(list_videos(str(videos))) == ["a.MKV", "b clip.mp4", "odd [1].mp4", "c.webm"]


def test_glob_and_single_file_take_any_suffix(videos: Path) -> None:
    assert names(list_videos(f"{videos}/*.txt")) == ["notes.txt"]
    assert names(list_videos(str(videos / "notes.txt"))) == ["notes.txt"]
    assert names(list_videos(str(videos / "odd [1].mp4"))) == ["odd [1].mp4"]
    assert names(list_videos(f"{videos}/**/*.webm")) == ["c.webm"]


def test_relative_and_absolute_paths_name_the_same_video(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(videos)
    assert list_videos("a.MKV") == list_videos(str(videos / "a.MKV")) == [str(videos / "a.MKV")]


@pytest.mark.parametrize("source", ["nowhere", "*.mov"])
def test_nothing_found_is_an_error_that_names_the_input(videos: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="matches no file"):
        list_videos(str(videos / source))


def test_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="no file with a video's suffix"):
        list_videos(str(tmp_path))


def test_name_that_is_not_utf8_can_be_listed_and_read(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(path)).write_bytes(b"content")
    (uri,) = list_videos(str(tmp_path))
    assert uri.encode() and uri.startswith("file://")
    with local_copy(uri) as local:
        assert local.read_bytes() == b"content"


def test_remote_file_is_copied_for_reading_and_removed_again() -> None:
    with fsspec.open("memory://archive/one.mp4", "wb") as file:
        file.write(b"remote")
    assert list_videos("memory://archive/*.mp4") == ["memory:///archive/one.mp4"]
    with local_copy("memory://archive/one.mp4") as local:
        assert local.read_bytes() == b"remote" and local.suffix == ".mp4"
    assert not local.exists()


@pytest.mark.parametrize("uri", ["/nowhere/a.mp4", "memory://nowhere/a.mp4"])
def test_vanished_file_is_a_media_error(uri: str) -> None:
    with pytest.raises(MediaError) as failure, local_copy(uri):
        pass
    assert failure.value.reason == "missing"


@pytest.mark.parametrize("url", ["local", "memory://output/run"])
def test_folder_writes_lists_reads_and_removes(tmp_path: Path, url: str) -> None:
    folder = Folder(str(tmp_path / "new" / "out") if url == "local" else url)
    assert folder.names("captions") == [] and folder.read("settings.json") is None
    folder.write("captions/b.parquet", b"1")
    folder.write("captions/a.parquet", b"2")
    folder.write("captions/a.parquet", b"22")
    assert folder.names("captions") == ["a.parquet", "b.parquet"]
    assert folder.read("captions/a.parquet") == b"22" and folder.read("captions/a.parquet", 1) == b"2"
    assert folder.sizes("captions") == {"a.parquet": 2, "b.parquet": 1}
    folder.remove("captions/a.parquet")
    folder.remove("captions/a.parquet")
    assert folder.names("captions") == ["b.parquet"]


def test_a_copy_of_a_remote_folder_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where mirrors are kept
    remote = Folder("memory://followed")
    remote.write("a", b"1")
    copy = Path(local_folder(remote.url))
    remote.write("a", b"other")
    remote.write("b", b"2")
    assert Path(local_folder(remote.url)) == copy
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == {"a": b"other", "b": b"2"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write("report.json", b"old")

    def no_space(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        folder.write("report.json", b"new")
    assert folder.read("report.json") == b"old"
