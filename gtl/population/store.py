"""RunStore: a run directory whose generations are written whole or not at all.

    run.json  config.yaml  lineage.jsonl  blobs/sha256/ab/abcdef....safetensors  gen-000003/  quarantine/

A generation folder holds ``state.json``, its rows of the journal and ``manifest.json``, which hashes both, names every
blob that the state refers to, and is written last. Nothing else in the directory is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gtl import storage
from gtl.errors import RunError, StorageError
from gtl.learngene.container import strict_json
from gtl.population import journal
from gtl.population.blobs import DIGEST, BlobStore
from gtl.population.lock import RunLock, warn
from gtl.population.manifest import MANIFEST, DamagedError, fingerprint, read_listed, read_manifest, seal

__all__ = ["RUN_FORMAT", "BlobStore", "RunStore"]

RUN_FORMAT = "1.0"
RUN, CONFIG, LINEAGE, STATE = "run.json", "config.yaml", "lineage.jsonl", "state.json"
INFO: Mapping[str, type] = {"id": str, "created": str, "versions": dict, "config_hash": str}
_GENERATION = re.compile(r"gen-([0-9]{6,})")


@dataclass(frozen=True)
class _Tip:
    """Where the next commit attaches: the newest whole generation and the journal up to it."""

    generation: int
    manifest: str
    journal_size: int
    journal_hash: Any  # hashlib object; copied, never updated in place


class RunStore:
    """One run directory. Anyone may open it and read; writing needs `lock`.

    Attributes:
        path: the directory.
        info: content of ``run.json``: format, id, created, versions, config_hash.
        blobs: the gene tensors.
    """

    def __init__(self, path: Path, info: Mapping[str, Any]) -> None:
        self.path = path
        self.info = info
        self.blobs = BlobStore(path / "blobs" / "sha256", path / "quarantine")
        self._lock: RunLock | None = None
        self._tip: _Tip | None = None

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, config_text: str, config_hash: str, versions: Mapping[str, str]
    ) -> RunStore:
        """Make a run directory (parents too). ``run.json`` comes last: without it, it is no run.

        Raises:
            RunError: the path is a file, or a folder that is not empty.
            StorageError: the disk refused.
        """
        root = Path(path)
        refuse_used(root)
        info = {
            "format": RUN_FORMAT,
            "id": uuid.uuid4().hex[:12],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": dict(versions),
            "config_hash": config_hash,
        }
        try:
            with storage.guard(root, len(config_text) + 4096):
                root.mkdir(parents=True, exist_ok=True)
                storage.preflight(root)
                storage.publish(root / CONFIG, config_text.encode())
                storage.publish(root / LINEAGE, b"")
                storage.publish(root / RUN, json.dumps(info, indent=2).encode() + b"\n")
                storage.sync_folder(root.absolute().parent)
        except FileExistsError as error:
            raise RunError(f"{root} is being made a run by another process; give a new path") from error
        except StorageError:
            if not (root / RUN).exists():
                for ours in (CONFIG, LINEAGE):  # the folder was empty: leave it usable
                    with suppress(OSError):
                        (root / ours).unlink()
            raise
        return cls(root, info)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunStore:
        """Open an existing run directory; writes nothing.

        Raises:
            RunError: not a run directory, or one of another major format.
        """
        root = Path(path)
        try:
            data = (root / RUN).read_bytes()
        except OSError as error:
            raise RunError(
                f"{root} is not a run directory: {RUN} cannot be read ({error.strerror}). Give the folder that "
                "`gtl evolve` made; if it was killed before it wrote that file, remove the folder and start again."
            ) from error
        return cls(root, parse_info(data, root))

    def check_config(self, config_hash: str) -> None:
        """Raise RunError unless this run was made with the configuration of that hash."""
        if config_hash != self.info["config_hash"]:
            raise RunError(
                f"{self.path} is the run directory of another config: it has {self.info['config_hash']}, this one is "
                f"{config_hash}. Resume with the {CONFIG} inside it, or give a new run directory."
            )

    def version_changes(self, versions: Mapping[str, str]) -> list[str]:
        """Sentences about versions that are not those the run began with; if any, results may differ in bits."""
        before = self.info["versions"]
        names = sorted({*before, *versions})
        return [
            f"{name} was {before.get(name, 'absent')} when the run began and is {versions.get(name, 'absent')} now"
            for name in names
            if before.get(name) != versions.get(name)
        ]

    @contextmanager
    def lock(self, say: Callable[[str], None] = warn) -> Iterator[None]:
        """Be the one writer. A dead one's lock is taken over, and what it left unfinished is swept.

        Args:
            say: told when another host's driver is given time for a sign of life, and when a dead one is taken over.

        Raises:
            RunError: another live driver holds it; names its process and host.
            StorageError: the directory cannot be written to (tested by writing).
        """
        with RunLock(self.path, say) as held:
            try:
                self._lock = held
                self.sweep()
                yield
            finally:
                self._lock, self._tip = None, None

    def commit(self, generation: int, state: Mapping[str, Any], lineage_rows: Sequence[Mapping[str, Any]]) -> None:
        """Make `generation` durable: when this returns, it survives any kill.

        Args:
            generation: higher than the last committed one.
            state: JSON; ``state["blobs"]`` lists the digests of every blob that it refers to. Key order is kept.
            lineage_rows: what happened in this generation, for the journal.

        Raises:
            RunError: not locked, or no longer; generation not higher; or a blob is not in the store.
            StorageError: the disk refused. Whatever was committed is intact; go on from `latest`.
        """
        self._need_lock("commit")
        tip = self._tip or self._establish()[0]
        if generation <= tip.generation:
            raise RunError(
                f"generation {generation} is committed already (the last is {tip.generation}) in {self.path}"
            )
        blobs = sorted(set(state.get("blobs", ())))
        absent = [digest for digest in blobs if digest not in self.blobs]
        if absent:
            raise RunError(f"the state of generation {generation} refers to blobs that were never put: {absent[:3]}")
        self.blobs.sync()
        rows = journal.encode_rows(lineage_rows)
        files = {STATE: json.dumps(state, separators=(",", ":"), allow_nan=False).encode() + b"\n", LINEAGE: rows}
        written = tip.journal_hash.copy()
        written.update(rows)
        size = tip.journal_size + len(rows)
        manifest = seal(
            {
                "format": RUN_FORMAT,
                "generation": generation,
                "config_hash": self.info["config_hash"],
                "parent": tip.manifest,
                "files": {name: fingerprint(data) for name, data in files.items()},
                "blobs": blobs,
                "journal": {"size": size, "sha256": written.hexdigest()},
            }
        )
        self._tip = None  # unknown until all is done: after a failure the next commit looks at the disk again
        folder = self.path / f"gen-{generation:06d}"
        try:
            storage.publish_folder(folder, {**files, MANIFEST: manifest})
        except FileExistsError as error:
            raise StorageError(f"{folder} is there already, but was not made by this run; move it away") from error
        # A driver that slept here for longer than its lease: who took over has mended the journal. Asleep before the
        # rename of the folder, it finds the name taken. Asleep after this line, the journal has its rows twice, which
        # is refused with its remedy: generations cannot be harmed.
        self._need_lock("commit")
        storage.append_durable(self.path / LINEAGE, rows)
        self._tip = _Tip(generation, hashlib.sha256(manifest).hexdigest(), size, written)
        self.blobs.committed()

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Newest generation whose manifest, files and blobs all verify, with its state; None before the first commit.

        Under `lock`, generations newer than that one are moved to quarantine and the journal is mended to fit; without
        it nothing is written.

        Raises:
            RunError: there are generations but none is whole, or the journal is damaged before its end.
            StorageError: the disk refused the repair.
        """
        return self._establish()[1]

    def sweep(self) -> None:
        """Remove what a killed writer left unfinished. Only under `lock`: a live writer's files look the same."""
        self._need_lock("sweep")
        storage.sweep(self.path)
        self.blobs.sweep()

    def prune(self, keep_last: int, referenced: Collection[str] = ()) -> int:
        """Remove blobs that no one needs; return how many. Those stay that the newest `keep_last` generations name,
        `referenced`, a ``*.json`` file in the run directory, or that were put since the last commit.

        Generation folders stay: they are small, and the journal can be rebuilt from them. Only under `lock`.

        Raises:
            ValueError: `keep_last` below 1.
            RunError: one of the generations to keep has no readable manifest; then nothing is removed.
        """
        self._need_lock("prune")
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}; at least the newest generation is kept")
        keep = set(referenced)
        for record in self.path.glob("*.json"):  # such as the ancestor's, which belongs to no generation
            keep.update(DIGEST.findall((storage.read_bytes(record) or b"").decode("utf-8", "replace")))
        for generation, folder in self._generations()[:keep_last]:
            try:
                keep.update(self._manifest(generation, folder)["blobs"])
            except DamagedError as error:
                raise RunError(f"{folder} is damaged ({error}); nothing pruned. Resume the run first.") from error
        return self.blobs.prune(keep)

    def _establish(self) -> tuple[_Tip, tuple[int, dict[str, Any]] | None]:
        """Find the newest whole generation; under the lock, also put the directory in order and remember the tip."""
        generations = self._generations()
        bad: list[tuple[Path, str]] = []
        tip, state = _Tip(-1, "", 0, hashlib.sha256()), None
        manifest: dict[str, Any] = {"journal": {"size": 0, "sha256": hashlib.sha256().hexdigest()}}
        for generation, folder in generations:
            try:
                manifest, found = self._whole(generation, folder)
                state = (generation, found)
                break
            except DamagedError as error:
                bad.append((folder, str(error)))
        if generations and state is None:
            reasons = "; ".join(f"{folder.name}: {reason}" for folder, reason in bad[:3])
            raise RunError(
                f"{self.path} has no whole generation left ({reasons}). Start a new run with the same configuration: "
                "it repeats this one."
            )
        if self._lock is not None:
            self._lock.check()
            text = self._mend_journal(manifest["journal"], generations[len(bad) :], abandoning=bool(bad))
            for folder, _ in bad:
                storage.set_aside(folder, self.path / "quarantine")
            if state is not None:
                own = hashlib.sha256(seal(manifest)).hexdigest()
                tip = _Tip(state[0], own, len(text), hashlib.sha256(text))
            self._tip = tip
        return tip, state

    def _mend_journal(
        self, expected: Mapping[str, Any], good: Sequence[tuple[int, Path]], *, abandoning: bool
    ) -> bytes:
        """Bring the journal to what the newest whole generation says, before bad ones move: a kill loses nothing."""
        path = self.path / LINEAGE
        found = storage.read_bytes(path)
        parts = [self._part(generation, folder) for generation, folder in reversed(good)]
        text = journal.mend(str(path), found or b"", **expected, parts=parts, abandoning=abandoning)
        if text != found:
            storage.publish(path, text, overwrite=True)
        return text

    def _part(self, generation: int, folder: Path) -> bytes | None:
        """A generation's rows; None if its copy is damaged."""
        try:
            return read_listed(self._manifest(generation, folder), folder, LINEAGE)
        except DamagedError:
            return None

    def _generations(self) -> list[tuple[int, Path]]:
        """Committed generations, newest first."""
        found = ((_GENERATION.fullmatch(path.name), path) for path in self.path.iterdir())
        return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)

    def _whole(self, generation: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Manifest and state of a generation that verifies entirely; DamagedError otherwise."""
        manifest = self._manifest(generation, folder)
        read_listed(manifest, folder, LINEAGE)
        try:
            state = json.loads(read_listed(manifest, folder, STATE))
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{STATE} is no JSON ({error})") from error
        for digest in manifest["blobs"]:
            reason = self.blobs.damage(digest)
            if reason is not None:
                if self._lock is not None and reason != "missing":
                    self.blobs.set_aside(digest)
                raise DamagedError(f"blob {digest}: {reason}")
        return manifest, state

    def _manifest(self, generation: int, folder: Path) -> dict[str, Any]:
        manifest = read_manifest(folder)
        if manifest["generation"] != generation or manifest["config_hash"] != self.info["config_hash"]:
            raise DamagedError("its manifest belongs to another generation or config")
        return manifest

    def _need_lock(self, what: str) -> None:
        """Refuse unless the lock is held, still."""
        if self._lock is None:
            raise RunError(f"{what} on {self.path} without the lock; use `with store.lock():` around it")
        self._lock.check()


def parse_info(data: bytes, root: Path) -> dict[str, Any]:
    """What ``run.json`` says, from its bytes; `root` names the run in errors.

    Raises:
        RunError: damaged, or of another major format.
    """
    try:
        info = strict_json(data.decode("utf-8"))
        format_ = info["format"]
        major, ours = str(format_).split(".", maxsplit=1)[0], RUN_FORMAT.split(".", maxsplit=1)[0]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{root / RUN} is damaged ({error}); restore it from a backup or start a new run") from error
    if major != ours:
        raise RunError(
            f"{root} has run format {str(format_)[:20]}; this gtl reads {ours}.x. Use the gtl version that made it."
        )
    lacking = sorted(key for key, kind in INFO.items() if not isinstance(info.get(key), kind))
    if lacking:
        raise RunError(f"{root / RUN} lacks {lacking}; restore it from a backup or start a new run")
    return dict(info)


def refuse_used(path: Path) -> None:
    """Raise RunError unless `path` is absent or an empty folder: a place for a new run."""
    with storage.guard(path, 4096):
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; give the path of a new run directory")
        present = sorted(entry.name for entry in path.iterdir())[:4] if path.exists() else []
    if present:
        raise RunError(f"{path} is not empty ({', '.join(present)}); give a new path, or resume the run in it")
