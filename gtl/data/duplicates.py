"""The same image in two roles: classes then count as unseen that were not. Found by pixels, or by bytes of files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from gtl.data.decode import Decoded
from gtl.data.images import Role
from gtl.errors import DataError


def refuse_equal_files(loaded: Mapping[Path, Role], others: Iterable[Path], root: Path, source: str) -> None:
    """Raise DataError if a loaded file has the bytes of one whose role was not loaded (and so was not decoded).

    Only files of equal length are read.
    """
    lengths: dict[int, list[Path]] = defaultdict(list)
    for path in loaded:
        lengths[path.stat().st_size].append(path)
    pairs = []
    digests: dict[int, dict[bytes, Path]] = {}
    for path in others:
        if not path.is_file() or (length := path.stat().st_size) not in lengths:
            continue
        if length not in digests:
            digests[length] = {_digest(known): known for known in lengths[length]}
        if known := digests[length].get(_digest(path)):
            pairs.append((known, path))
    _refuse(pairs, root, source)


def refuse_equal_pixels(images: Iterable[tuple[Decoded, Role]], root: Path, source: str) -> None:
    """Raise DataError if two images in different roles decode to the same pixels."""
    _refuse(_pairs((image.digest, image.path, role) for image, role in images), root, source)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _pairs(items: Iterable[tuple[bytes, Path, Role]]) -> list[tuple[Path, Path]]:
    first: dict[bytes, tuple[Path, Role]] = {}
    pairs = []
    for digest, path, role in items:
        seen, seen_role = first.setdefault(digest, (path, role))
        if seen_role != role:
            pairs.append((seen, path))
    return pairs


def _refuse(pairs: list[tuple[Path, Path]], root: Path, source: str) -> None:
    if pairs:
        one, other = (path.relative_to(root) for path in pairs[0])
        more = f" ({len(pairs)} such pairs)" if len(pairs) > 1 else ""
        raise DataError(
            f"{source}: {one} and {other} are the same image but their classes are in different splits{more}; "
            "remove one of them"
        )
