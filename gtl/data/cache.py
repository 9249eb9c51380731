"""A small cache of arrays on disk. Never needed: whatever cannot be read or written is made again."""

from __future__ import annotations

import contextlib
import os
import uuid
import zipfile
import zlib
from pathlib import Path

import numpy as np


def cache_dir() -> Path:
    """``$GTL_CACHE``, else ``$XDG_CACHE_HOME/gtl``, else ``~/.cache/gtl``. Not created here."""
    if own := os.environ.get("GTL_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG standard says that a relative path is to be ignored.
    return (Path(base) if base and Path(base).is_absolute() else Path("~/.cache").expanduser()) / "gtl"


def read_array(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The uint8 array of `shape` cached under `name`, or None if there is none that can be trusted."""
    try:
        # Members of an npz carry a checksum that is verified on reading, so a damaged file never passes as pictures.
        with np.load(cache_dir() / name, allow_pickle=False) as file:
            array = file["array"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        return None
    return array if array.dtype == np.uint8 and array.shape == shape else None


def write_array(name: str, array: np.ndarray) -> None:
    """Cache `array` under `name`: the whole file or none, and no error where the folder cannot be written."""
    folder = cache_dir()
    temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            np.savez(file, array=array)
        os.replace(temporary, folder / name)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
