"""What proves a generation whole: hashes of its files and the names of its blobs, sealed with a hash of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtl import storage
from gtl.learngene.container import canonical_json, strict_json
from gtl.population.blobs import DIGEST

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
    return parse_manifest(data)


def parse_manifest(data: bytes) -> dict[str, Any]:
    """The manifest in the bytes of its file.

    Raises:
        DamagedError: not byte for byte what `seal` wrote, or not what a manifest says.
    """
    manifest = _unsealed(data)
    _check(manifest)
    return manifest


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


def _unsealed(data: bytes) -> dict[str, Any]:
    try:
        manifest = strict_json(data.decode("utf-8"))
        del manifest["sha256"]
        if seal(manifest) == data:
            return dict(manifest)
    except (ValueError, KeyError, TypeError):
        pass
    raise DamagedError(f"{MANIFEST} is missing, cut off or changed")


def _check(manifest: Mapping[str, Any]) -> None:
    """A hash proves who wrote nothing: what is read below must be there and of its type."""
    files, blobs, journal = (manifest.get(key) for key in ("files", "blobs", "journal"))
    sound = (
        type(manifest.get("generation")) is int
        and isinstance(manifest.get("config_hash"), str)
        and isinstance(files, dict)
        and all(map(_is_fingerprint, files.values()))
        and isinstance(blobs, list)
        and all(isinstance(digest, str) and DIGEST.fullmatch(digest) for digest in blobs)
        and _is_fingerprint(journal)
    )
    if not sound:
        raise DamagedError(f"{MANIFEST} does not say what the manifest of a generation says")


def _is_fingerprint(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"size", "sha256"}
        and type(value["size"]) is int
        and isinstance(value["sha256"], str)
        and DIGEST.fullmatch(value["sha256"]) is not None
    )
