"""`npz`: the user's own arrays in one file (images, labels, class_names), with a seeded class split.

Headers are read before data, so a file of the wrong kind is refused without loading it, and nothing is ever unpickled. An
archive that would grow out of proportion is refused before anything of it is unpacked; nothing is ever extracted to the disk.
"""

from __future__ import annotations

import math
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtl import storage
from gtl.data.arrays import cross_role_duplicates, from_rows
from gtl.data.images import Role, Splits
from gtl.data.request import DataRequest, check_names, split_classes
from gtl.errors import DataError

WANTED = "an .npz file with images uint8 (N, H, H, 3), labels integer (N,) and class_names text (C,)"

MOST_GROWTH = 100  # images compress to a half or a tenth; DEFLATE could make a thousand of one
ANY_SIZE = 1 << 26  # bytes that a file of any size may unpack to


class Labelled(NamedTuple):
    """What an npz holds: images uint8 ``(N, H, H, 3)``, labels int64 ``(N,)`` in 0..C-1 in any order, C names."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


def load(request: DataRequest, roles: Sequence[Role]) -> Splits:
    """Images of the wanted roles; pixel-identical images across roles are counted in a warning.

    Raises:
        DataError: a file that is not as `read` wants it, or class counts that do not fit.
    """
    images, labels, names = read(request.path(WANTED), request.source)
    class_lists = split_classes(names, request)
    rows = {name: np.flatnonzero(labels == label) for label, name in enumerate(names)}
    splits = from_rows(images, rows.__getitem__, class_lists, roles, request, mirror=True)
    warn_of_duplicates(splits)
    return splits


def read(path: Path, source: str) -> Labelled:
    """One npz, checked.

    Raises:
        DataError: not an npz, an array missing, of a wrong type or shape, object arrays, labels out of range, a class
            without images, class names that repeat.
    """
    try:
        stream, size = storage.open_regular(path)  # once: what is checked is what is read
        with stream:
            with zipfile.ZipFile(stream) as archive:
                _check_growth(archive, size, path, source)
                headers = {name: _header(archive, name, path, source) for name in ("images", "labels", "class_names")}
            _check_headers(headers, path, source)
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                images, labels, raw_names = file["images"], file["labels"], file["class_names"]
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{source}: {path} cannot be read ({error}); it must be {WANTED}") from error
    names = check_names((str(name) for name in raw_names), f"{source}: {path}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(names):
        raise DataError(
            f"{source}: {path}: labels lie in {low}..{high}, with {len(names)} class_names they must be "
            f"0..{len(names) - 1}"
        )
    labels = labels.astype(np.int64)
    empty = [name for name, count in zip(names, np.bincount(labels, minlength=len(names)), strict=True) if not count]
    if empty:
        raise DataError(f"{source}: {path}: class {empty[0]!r} has 0 images ({len(empty)} such); remove its name")
    return Labelled(images, labels, names)


def warn_of_duplicates(splits: Splits, known: int = 0) -> None:
    """Warn if more than `known` images stand in two of the loaded roles."""
    pairs = cross_role_duplicates(splits.sets)
    if len(pairs) > known:
        warnings.warn(
            f"{splits.source}: {len(pairs)} images stand in two roles, for example {pairs[0][0]} and {pairs[0][1]}; "
            "results on one role are not independent of the other",
            stacklevel=2,
        )


def _check_growth(archive: zipfile.ZipFile, size: int, path: Path, source: str) -> None:
    """Raise DataError if an archive of `size` bytes says that it holds far more, or may: before any of it is unpacked."""
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(ANY_SIZE, MOST_GROWTH * size):
        raise DataError(
            f"{source}: {path} has {size} bytes that unpack to {unpacked}, more than {MOST_GROWTH} times as many; if these "
            "are your images, save them with np.savez, which does not compress"
        )
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise DataError(f"{source}: {path} is compressed in a way that numpy does not use; save it with np.savez")


def _header(archive: zipfile.ZipFile, name: str, path: Path, source: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of one member without reading its data."""
    try:
        member = archive.open(f"{name}.npy")
    except KeyError:
        has = ", ".join(Path(member).stem for member in archive.namelist()) or "nothing"
        raise DataError(f"{source}: {path} has no array {name!r} (it has {has}); it must be {WANTED}") from None
    with member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
        declared = math.prod(shape) * dtype.itemsize + member.tell()
    if dtype.hasobject:
        raise DataError(
            f"{source}: {path}: {name} is an object array, which is never unpickled; "
            f"save it with a plain type ({'str' if name == 'class_names' else 'an integer'})"
        )
    if declared != archive.getinfo(f"{name}.npy").file_size:
        raise DataError(f"{source}: {path}: {name} declares shape {shape}, which its size belies; write the file again")
    return shape, dtype


def _check_headers(headers: dict[str, tuple[tuple[int, ...], np.dtype]], path: Path, source: str) -> None:
    (shape, dtype), (label_shape, label_dtype), (name_shape, name_dtype) = (
        headers[name] for name in ("images", "labels", "class_names")
    )
    where = f"{source}: {path}"
    if dtype != np.uint8:
        raise DataError(f"{where}: images are {dtype}, they must be uint8 (0..255): scale and cast them")
    if len(shape) != 4 or shape[3] != 3:
        raise DataError(
            f"{where}: images have shape {shape}, it must be (N, H, H, 3); repeat grey images to three channels, "
            "move channels last"
        )
    if shape[1] != shape[2]:
        raise DataError(f"{where}: images are {shape[1]} x {shape[2]}, they must be square: crop or pad them")
    if 0 in shape:
        raise DataError(f"{where}: there are no images (shape {shape})")
    if label_dtype.kind not in "iu" or label_shape != shape[:1]:
        raise DataError(
            f"{where}: labels are {label_dtype} {label_shape}, they must be integers ({shape[0]},), one an image"
        )
    if name_dtype.kind != "U" or len(name_shape) != 1:
        raise DataError(f"{where}: class_names are {name_dtype} {name_shape}, they must be text of shape (C,)")
