"""The user's npz: what is read and what is refused before it is loaded."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import npz_arrays

from gtl.data import DataRequest, Splits, load, npz
from gtl.errors import DataError


def get(folder: Path, arrays: dict[str, np.ndarray], *roles, **options) -> Splits:
    np.savez(folder / "own.npz", **arrays)
    return load(DataRequest("npz", root=str(folder / "own.npz"), **options), roles or ("train", "val"))


def test_rows_follow_their_classes(tmp_path: Path) -> None:
    arrays = npz_arrays()
    splits = get(tmp_path, arrays, "train", "val", "novel")
    assert {role: images.n_classes for role, images in splits.sets.items()} == {"train": 4, "val": 1, "novel": 1}
    for images in splits.sets.values():
        for label, name in enumerate(images.class_names):
            rows = arrays["labels"] == int(name.split()[1])
            assert torch.equal(images.images[images.indices_of(label)], torch.from_numpy(arrays["images"][rows]))
    assert splits["train"].mirror and not get(tmp_path, arrays, mirror=False)["train"].mirror


def test_sizes(tmp_path: Path) -> None:
    assert get(tmp_path, npz_arrays(), image_size=28)["train"].image_size == 28
    small = npz_arrays(size=16)
    with pytest.raises(DataError, match=r"images are 16 pixels wide; set image_size to 28\.\.84"):
        get(tmp_path, small)
    assert get(tmp_path, small, image_size=32)["val"].image_size == 32
    assert get(tmp_path, npz_arrays(size=90), image_size=84)["val"].image_size == 84
    with pytest.raises(DataError, match=r"images are 90 pixels wide; set image_size"):
        get(tmp_path, npz_arrays(size=90))


def test_images_per_class_and_least(tmp_path: Path) -> None:
    assert set(get(tmp_path, npz_arrays(), images_per_class=2)["train"].class_counts.values()) == {2}
    with pytest.raises(DataError, match=r"too few images: class 'kind .' has 4, .*; at least 5 are needed"):
        get(tmp_path, npz_arrays(), min_per_class=5)


def test_duplicates_across_roles_are_counted(tmp_path: Path) -> None:
    arrays = npz_arrays()
    lists = get(tmp_path, arrays).class_lists
    one, other = (int(lists[role][0].split()[1]) for role in ("train", "val"))  # also the rows of their first images
    arrays["images"][other] = arrays["images"][one]
    with pytest.warns(
        UserWarning, match=r"1 images stand in two roles, for example train/kind \d #\d+ and val/kind \d #0"
    ):
        get(tmp_path, arrays)


BROKEN = {
    "float images": ({"images": np.zeros((24, 32, 32, 3), np.float32)}, r"images are float32, they must be uint8"),
    "channels first": ({"images": np.zeros((24, 3, 32, 32), np.uint8)}, r"shape \(24, 3, 32, 32\), .*\(N, H, H, 3\)"),
    "grey": ({"images": np.zeros((24, 32, 32), np.uint8)}, "repeat grey images to three channels"),
    "not square": ({"images": np.zeros((24, 32, 40, 3), np.uint8)}, "images are 32 x 40, they must be square"),
    "no images": ({"images": np.zeros((0, 32, 32, 3), np.uint8), "labels": np.zeros(0, int)}, "there are no images"),
    "float labels": ({"labels": np.zeros(24)}, r"labels are float64 \(24,\), they must be integers \(24,\)"),
    "fewer labels": ({"labels": np.zeros(23, int)}, r"labels are int64 \(23,\), they must be integers \(24,\)"),
    "label too large": ({"labels": np.arange(24)}, r"labels lie in 0..23, with 6 class_names they must be 0..5"),
    "label below zero": ({"labels": np.arange(24) % 6 - 1}, r"labels lie in -1..4"),
    "class without images": ({"labels": np.arange(24) % 5}, "class 'kind 5' has 0 images"),
    "names of numbers": ({"class_names": np.arange(6)}, "class_names are int64 .* must be text"),
    "names twice": ({"class_names": np.array(list("abcdea"))}, "'a' appears twice"),
    "object labels": ({"labels": np.array([{}] * 24)}, "labels is an object array, which is never unpickled"),
    "object names": ({"class_names": np.array(list("abcdef"), object)}, "class_names is an object array.*plain type"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_refused(tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    with pytest.raises(DataError, match=message):
        get(tmp_path, npz_arrays() | change)


def test_an_evil_pickle_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "canary",)

    with pytest.raises(DataError, match="never unpickled"):
        get(tmp_path, npz_arrays() | {"labels": np.array([Evil()] * 24, object)})
    assert not (tmp_path / "canary").exists()


def test_files_of_another_kind(tmp_path: Path) -> None:
    arrays = npz_arrays()
    with pytest.raises(DataError, match=r"has no array 'labels' \(it has images\)"):
        get(tmp_path, {"images": arrays["images"]})
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    request = DataRequest("npz", root=str(path))
    for content in (b"", b"<html>", whole[: len(whole) // 2], whole[:40_000] + b"\xff" + whole[40_001:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"own.npz cannot be read \(.*\); it must be an .npz file with images"):
            load(request)
    with pytest.raises(DataError, match="cannot be read"):
        load(DataRequest("npz", root=str(tmp_path)))


def bomb(path: Path, how: int, size: int) -> Path:
    """An npz that is what it should be, and unpacks to so many bytes of black images."""
    images = np.zeros((size // 3072, 32, 32, 3), np.uint8)
    arrays = {"images": images, "labels": np.arange(len(images)) % 2, "class_names": np.array(["a", "b"])}
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    return path


def test_f33_an_archive_that_grows_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, 100_000_000)
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    with pytest.raises(DataError, match=r"unpack to 10\d{7}, more than 100 times as many.*np\.savez"):
        npz.read(path, "npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    small = npz.read(bomb(tmp_path / "small.npz", zipfile.ZIP_DEFLATED, 400_000), "npz")
    assert len(small.images) == 130, "a small file may be as flat as it likes"
    with pytest.raises(DataError, match="numpy does not use"):
        npz.read(bomb(tmp_path / "lzma.npz", zipfile.ZIP_LZMA, 400_000), "npz")


def test_f33_nothing_is_extracted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "own.npz", **npz_arrays(), **{"../../escaped": np.zeros(3)})
    before = sorted(tmp_path.rglob("*"))
    load(DataRequest("npz", root=str(tmp_path / "in" / "own.npz")), ("train",))
    assert sorted(tmp_path.rglob("*")) == before
