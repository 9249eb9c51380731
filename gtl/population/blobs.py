"""BlobStore: gene tensors by the hash of their content, on disk or in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from gtl import storage
from gtl.errors import RunError
from gtl.learngene import container

DIGEST = re.compile(r"[0-9a-f]{64}")
_REMEDY = "Resume the run: it goes back to the last generation that is whole."
SUFFIX = ".safetensors"


class BlobStore:
    """Content-addressed gene tensors: what is put once is never changed, and equal tensors are stored once.

    On disk a blob is ``<root>/ab/abcdef....safetensors``, whose name is the sha256 of the file's bytes.

    Args:
        root: folder of the blobs, made when needed; None keeps everything in memory.
        quarantine: folder that damaged blobs are moved to; by default ``quarantine`` inside `root`.
    """

    def __init__(self, root: Path | None = None, quarantine: Path | None = None) -> None:
        self.root = root
        self._quarantine = root / "quarantine" if root is not None and quarantine is None else quarantine
        self._memory: dict[str, bytes] = {}
        self._uncommitted: set[str] = set()
        self._unsynced: set[Path] = set()  # folders with names that a power cut might still take away

    def put(self, tensors: Mapping[str, torch.Tensor]) -> str:
        """Store tensors; after the next `sync` nothing takes them away. Putting equal tensors again does nothing.

        Returns:
            The digest: sha256 in hex, the same for equal tensors in any order and on any device.

        Raises:
            LearngeneError: a name, dtype or shape that the container does not hold.
            StorageError: the disk refused.
        """
        return self.put_bytes(container.encode(tensors))

    def put_bytes(self, data: bytes) -> str:
        """`put` of tensors that are encoded already, as a worker sends them.

        Raises:
            StorageError: the disk refused.
        """
        digest = hashlib.sha256(data).hexdigest()
        self._uncommitted.add(digest)
        if self.root is None:
            self._memory[digest] = data
            return digest
        path = self.path(digest)
        self._unsynced.add(path.parent)  # also where it is there: who put it may have been killed before syncing
        if path.exists():
            if self.damage(digest) is None:
                return digest
            self.set_aside(digest)
        with storage.guard(path, len(data)):
            for folder in (self.root, path.parent):
                if not folder.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    storage.sync_folder(folder.parent)
        storage.publish(path, data, overwrite=True, sync_name=False)  # who put it in the meantime, put the same
        return digest

    def sync(self) -> None:
        """Make everything that was put durable: before anything on the disk refers to it.

        Raises:
            StorageError: the disk refused.
        """
        for folder in sorted(self._unsynced):
            with storage.guard(folder, 0):
                storage.sync_folder(folder)
            self._unsynced.discard(folder)

    def get(self, digest: str) -> dict[str, torch.Tensor]:
        """Fresh tensors of a blob, verified against its digest.

        Raises:
            RunError: no such blob, or it is damaged (then it is moved to quarantine).
        """
        return container.decode(self.get_bytes(digest))

    def get_bytes(self, digest: str) -> bytes:
        """The bytes of a blob, verified against its digest; raises as `get` does."""
        if self.root is None:
            if digest not in self._memory:
                raise RunError(f"no gene tensors {digest!r} in memory; put them first")
            return self._memory[digest]
        data = storage.read_bytes(self.path(digest))
        if data is None:
            raise RunError(f"gene tensors {self.path(digest)} are missing. {_REMEDY}")
        if hashlib.sha256(data).hexdigest() != digest:
            moved = self.set_aside(digest)
            raise RunError(
                f"gene tensors {self.path(digest)} are damaged (sha256 differs), moved to {moved}. {_REMEDY}"
            )
        return data

    def __contains__(self, digest: object) -> bool:
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            return False
        return digest in self._memory if self.root is None else self.path(digest).is_file()

    def path(self, digest: str) -> Path:
        """Where a blob lies on disk.

        Raises:
            RunError: not a sha256 in hex, or a store in memory.
        """
        if self.root is None or not DIGEST.fullmatch(digest):
            raise RunError(f"{digest[:80]!r} names no blob file: 64 hex digits and a store on disk are needed")
        return self.root / digest[:2] / f"{digest}{SUFFIX}"

    def damage(self, digest: str) -> str | None:
        """Why a blob cannot be used: "missing" or "sha256 differs"; None when it is whole."""
        if self.root is None:
            return None if digest in self._memory else "missing"
        data = storage.read_bytes(self.path(digest))
        if data is None:
            return "missing"
        return None if hashlib.sha256(data).hexdigest() == digest else "sha256 differs"

    def set_aside(self, digest: str) -> Path:
        """Move a damaged blob to quarantine; return where it went.

        Raises:
            StorageError: it could not be moved.
        """
        if self._quarantine is None:
            raise RunError("a store in memory has no quarantine")
        return storage.set_aside(self.path(digest), self._quarantine)

    def discard(self, digest: str) -> None:
        """Remove a blob that nothing refers to any more.

        Raises:
            StorageError: the file could not be removed.
        """
        self._uncommitted.discard(digest)
        self._memory.pop(digest, None)
        if self.root is not None:
            with storage.guard(self.path(digest), 0):
                self.path(digest).unlink(missing_ok=True)

    def committed(self) -> None:
        """What was put so far is in a generation, or no longer wanted: from now on it may be pruned."""
        self._uncommitted.clear()

    def prune(self, keep: Collection[str]) -> int:
        """Remove every blob that is not in `keep` and was not put since the last commit; return how many.

        Raises:
            StorageError: a file could not be removed.
        """
        kept = {*keep, *self._uncommitted}
        if self.root is None:
            gone = [digest for digest in self._memory if digest not in kept]
            for digest in gone:
                del self._memory[digest]
            return len(gone)
        files = [path for path in self.root.glob(f"??/*{SUFFIX}") if path.name.removesuffix(SUFFIX) not in kept]
        for path in files:
            with storage.guard(path, 0):
                path.unlink(missing_ok=True)
        return len(files)

    def sweep(self) -> None:
        """Remove unfinished files that a killed writer left."""
        for folder in () if self.root is None else self.root.glob("??"):
            storage.sweep(folder)
