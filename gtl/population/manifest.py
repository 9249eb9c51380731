"""What proves a generation whole: hashes of its files and the names of its blobs, sealed with a hash of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtl import storage
from gtl.learngene.container import canonical_json, strict_json

MANIFEST = "manifest.json"


class DamagedError(Exception):
    """Why a generation cannot be used. Stays inside the store, which then steps back."""


def fingerprint(data: bytes) -> dict[str, Any]:
    """Size and sha256 of a file's bytes, as a manifest records them."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def seal(manifest: Mapping[str, Any]) -> bytes:
    """Canonical bytes of a manifest with a hash of itself."""
    own = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    return canonical_json({**manifest, "sha256": own}).encode() + b"\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a generation folder.

    Raises:
        DamagedError: missing, or not byte for byte what `seal` wrote.
        StorageError: the disk refused to read it.
    """
    data = storage.read_bytes(folder / MANIFEST) or b""
    try:
        manifest = strict_json(data.decode("utf-8"))
        del manifest["sha256"]
        if seal(manifest) == data:
            return dict(manifest)
    except (ValueError, KeyError, TypeError):
        pass
    raise DamagedError(f"{MANIFEST} is missing, cut off or changed")


def read_listed(manifest: Mapping[str, Any], folder: Path, name: str) -> bytes:
    """A file of a generation that its manifest lists.

    Raises:
        DamagedError: missing, or not what the manifest says.
        StorageError: the disk refused to read it.
    """
    data = storage.read_bytes(folder / name)
    if data is None or manifest["files"].get(name) != fingerprint(data):
        raise DamagedError(f"{name} is not what its manifest says")
    return data
