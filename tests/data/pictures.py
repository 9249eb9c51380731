"""Files that the data tests read: pictures, broken pictures, npz files. Everything is made from a seed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gtl.data import DataRequest

SMALL_GLYPHS = DataRequest("glyphs", train_classes=8, val_classes=4, novel_classes=4, images_per_class=6)


def pixels(seed: int, size: int = 40) -> np.ndarray:
    """A smooth random picture, uint8 ``(size, size, 3)``; different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def write_classes(root: Path, names: Sequence[str], count: int = 3, first_seed: int = 0) -> Path:
    """``root/<name>/<i>.png`` for every name; returns root."""
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for j in range(count):
            Image.fromarray(pixels(first_seed + 1000 * i + j)).save(root / name / f"{j}.png")
    return root


def write_roles(root: Path, roles: Sequence[str] = ("train", "val", "test"), classes: int = 2, count: int = 3) -> Path:
    """``root/<role>/<role> <i>/<j>.png``; returns root."""
    for k, role in enumerate(roles):
        write_classes(root / role, [f"{role} {i}" for i in range(classes)], count, first_seed=100_000 * k)
    return root


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that declares a size and ends after a few bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def npz_arrays(classes: int = 6, count: int = 4, size: int = 32) -> dict[str, np.ndarray]:
    """Good contents of a user's npz; rows of the classes take turns."""
    labels = np.tile(np.arange(classes), count)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
    return {"images": images, "labels": labels, "class_names": np.array([f"kind {i}" for i in range(classes)])}
