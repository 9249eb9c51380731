"""A small cache of arrays and records on disk. Never needed: whatever cannot be read or written is made again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

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
    array = (read_arrays(name) or {}).get("array")
    return array if array is not None and array.dtype == np.uint8 and array.shape == shape else None


def write_array(name: str, array: np.ndarray) -> None:
    """Cache `array` under `name`: the whole file or none, and no error where the folder cannot be written."""
    write_arrays(name, {"array": array})


def read_arrays(name: str) -> dict[str, np.ndarray] | None:
    """The named arrays cached under `name`, or None if there are none that can be trusted."""
    try:
        # Members of an npz carry a checksum that is verified on reading, so a damaged file never passes as pictures.
        with np.load(cache_dir() / name, allow_pickle=False) as file:
            return {member: file[member] for member in file.files}
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        return None


def write_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Cache named arrays under `name`, as `write_array` does one."""
    _write(name, lambda file: np.savez(file, allow_pickle=False, **arrays))


def discard(name: str) -> None:
    """Forget what is cached under `name`, if anything is."""
    with contextlib.suppress(OSError):
        (cache_dir() / name).unlink()


def sweep_cache(prefix: str, seconds: float) -> None:
    """Forget what has a name that begins with `prefix` and was written more than so many seconds ago, and what a process left
    that was killed while it wrote such a thing."""
    with contextlib.suppress(OSError):
        for file in [*cache_dir().glob(f"{prefix}*"), *cache_dir().glob(f".{prefix}*.tmp")]:
            if time.time() - file.stat().st_mtime > seconds:
                discard(file.name)


def read_cached(name: str) -> dict[str, Any] | None:
    """The JSON object cached under `name`, or None if there is none that can be trusted."""
    try:
        found = json.loads((cache_dir() / name).read_bytes())
        record, digest = found["record"], found["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if isinstance(record, dict) and digest == _digest(record) else None


def write_cached(name: str, record: dict[str, Any]) -> None:
    """Cache a JSON object under `name`, as `write_array` does an array."""
    text = json.dumps({"sha256": _digest(record), "record": record}, indent=1) + "\n"
    _write(name, lambda file: file.write(text.encode()))


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _write(name: str, fill: Callable[[IO[bytes]], object]) -> None:
    folder = cache_dir()
    temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            fill(file)
        os.replace(temporary, folder / name)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
