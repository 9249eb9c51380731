"""The cache may be absent, broken or read-only; the images are the same."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gtl.data.cache import cache_dir, read_array, write_array
from gtl.data.glyphs import cached_render


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("GTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "gtl"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "gtl"


def test_one_whole_file_a_parameter_set(cache: Path) -> None:
    images = cached_render("QZ", 2, 32)
    file = only_file(cache)
    assert file.name.startswith("glyphs-v") and file.suffix == ".npz"
    before = file.stat().st_mtime_ns
    assert np.array_equal(cached_render("QZ", 2, 32), images)
    assert only_file(cache).stat().st_mtime_ns == before  # read, not written again
    cached_render("QZ", 3, 32)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text", "shape", "pickle", "folder"])
def test_a_broken_file_is_drawn_again(cache: Path, damage: str) -> None:
    images = cached_render("QZ", 2, 32)
    file = only_file(cache)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage in {"shape", "pickle"}:
        array = np.zeros((1, 2), np.uint8) if damage == "shape" else np.array([{}], object)
        with file.open("wb") as stream:
            np.savez(stream, array=array)
    else:
        cut = {"truncate": bytes(content[:1000]), "flip": bytes(content), "empty": b"", "text": b"<html>"}
        file.write_bytes(cut[damage])
    assert np.array_equal(cached_render("QZ", 2, 32), images)
    if damage != "folder":
        assert read_array(file.name, images.shape) is not None  # repaired
    assert not [entry for entry in cache.iterdir() if entry.suffix == ".tmp"]


def test_a_cache_that_cannot_be_written_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "file"))
    assert cached_render("Q", 1, 32).shape == (1, 32, 32, 3)


def test_a_full_disk_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    write_array("x.npz", np.zeros(3, np.uint8))
    assert list(cache.iterdir()) == []
    assert read_array("x.npz", (3,)) is None
