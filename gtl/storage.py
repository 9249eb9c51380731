"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder. Standard library only.

Every step announces itself to `fault`, so that a test can stop a writer between any two of them. Files that may come from
anyone are opened with `open_regular`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gtl.errors import ConfigError, StorageError

_TEMPORARY = re.compile(r".+\.tmp\.[0-9a-f]{12}")  # the name of everything unfinished: what a killed writer leaves

fault: Callable[[str], None] | None = None  # test hook: called with the name of each step after it was done


def step(name: str) -> None:
    """Tell the fault hook, if one is set, that the step `name` was just done."""
    if fault is not None:
        fault(name)


def temporary_name(path: Path) -> Path:
    """A fresh name beside `path`, on the same file system, for a file or folder that is not finished yet.

    Raises:
        StorageError: `path` has no name, as "" has none.
    """
    if not path.name:
        raise StorageError(f"{str(path)!r} is not the name of a file; give one")
    return path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:12]}")


def check_suffix(path: Path, suffix: str, what: str) -> None:
    """Raise ConfigError unless `path` ends in the suffix of `what`."""
    if path.suffix != suffix:
        raise ConfigError(f"{path} is not the name of {what}; give one that ends in {suffix}")


def check_new(path: Path, suffix: str, what: str) -> None:
    """Refuse `path`, before the work for a file begins, unless it can be the name of `what`, is free and can be written.

    Raises:
        StorageError: something is there already, `path` has no name, or its folder is missing, full or not permitted.
        ConfigError: another suffix.
    """
    temporary_name(path)
    if path.exists():
        raise taken(path)
    check_suffix(path, suffix, what)
    preflight(path.parent)


def taken(path: Path | str) -> StorageError:
    """What to raise where a file would have to be overwritten."""
    return StorageError(f"{path} exists already; give another path, or remove it first")


@contextmanager
def guard(path: Path, needed: int) -> Iterator[None]:
    """Turn an operating-system error inside the block into a StorageError with the path and the bytes needed.

    FileExistsError passes: it is no fault of the disk, and the caller knows what it means.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = {
            errno.ENOSPC: f"Free at least {needed} bytes",
            errno.EDQUOT: f"Free at least {needed} bytes of your quota",
            errno.ENOENT: "Make the folder first",
        }.get(error.errno or 0, "Choose a folder that you may write to")
        raise StorageError(
            f"cannot write {path} ({needed} bytes needed): {reason}. {remedy}; what was saved before is intact."
        ) from error


def write_durable(path: Path, data: bytes) -> None:
    """Create `path` with `data` and force it to disk. Not atomic: use it under a temporary name or folder.

    Raises:
        OSError: as the system reports it; FileExistsError if `path` is there already.
    """
    # 0o666 leaves the mode to the umask; tempfile's 0600 would lock out the group that shares the folder
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb", buffering=0) as stream:
        step(f"created {path.name}")
        _write_all(stream.fileno(), data)
        step(f"wrote {path.name}")
        os.fsync(stream.fileno())
    step(f"synced {path.name}")


def append_durable(path: Path, data: bytes) -> None:
    """Append `data` to `path` (created if absent) and force it to disk.

    Raises:
        StorageError: with what was appended in part cut off again, where the disk still allows that.
    """
    with guard(path, len(data)), open(path, "ab", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        step(f"opened {path.name}")
        try:
            _write_all(stream.fileno(), data)
            step(f"appended {path.name}")
            os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):
                stream.truncate(size)
            raise
        step(f"synced {path.name}")


def publish(path: Path, data: bytes, *, overwrite: bool = False, sync_name: bool = True) -> None:
    """Write `path` whole or not at all: temporary file in the same folder, fsync, rename, fsync of the folder.

    Args:
        path: the file.
        data: all that it is to hold.
        overwrite: whether a file that is there is replaced.
        sync_name: False leaves the folder to the caller: until its `sync_folder`, a power cut may take the file away,
            whole. Many files in one folder then cost one fsync of it.

    Raises:
        FileExistsError: `path` is there and `overwrite` is False.
        StorageError: the disk refused; the temporary file is removed, an older `path` is untouched.
    """
    temporary = temporary_name(path)
    with guard(path, len(data)):
        try:
            write_durable(temporary, data)
            if overwrite:
                os.replace(temporary, path)
            else:
                rename_if_absent(temporary, path)
            step(f"renamed {path.name}")
            if sync_name:
                sync_folder(path.parent)
        except OSError:  # not BaseException: a kill cleans nothing either, and the sweep must cope with that
            with suppress(OSError):
                temporary.unlink()
            raise


def publish_new(path: Path, data: bytes) -> None:
    """`publish` what a user asked for by name.

    Raises:
        StorageError: `path` is there, or the disk refused.
    """
    try:
        publish(path, data)
    except FileExistsError:
        raise taken(path) from None


def rename_if_absent(temporary: Path, path: Path) -> None:
    """Rename, unless the name is taken.

    Raises:
        FileExistsError: it is; the temporary file stays.
        OSError: as the system reports it.
    """
    try:
        os.link(temporary, path)  # unlike rename, it fails where the name is taken, in one step
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK}:
            raise
        if path.exists():  # a file system without hard links: the check and the rename are two steps
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.rename(temporary, path)
        return
    step(f"linked {path.name}")
    temporary.unlink()


def publish_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files whole or not at all: temporary folder, fsync of everything, rename, fsync of the parent.

    Raises:
        FileExistsError: `folder` is there and not empty.
        StorageError: the disk refused; the temporary folder is removed.
    """
    temporary = temporary_name(folder)
    with guard(folder, sum(map(len, files.values()))):
        try:
            temporary.mkdir()
            step(f"made {temporary.name}")
            for name, data in files.items():
                write_durable(temporary / name, data)
            sync_folder(temporary)
            os.rename(temporary, folder)
            step(f"renamed {folder.name}")
            sync_folder(folder.parent)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from error
            raise


def open_regular(path: str | os.PathLike[str]) -> tuple[BinaryIO, int]:
    """Open a regular file for reading; returns the stream and its size. Nothing else is waited for, or read without end.

    What is checked is what was opened: nothing can take the file's place in between.

    Raises:
        OSError: as the system reports it, or "not a regular file": a folder, a pipe, a device, a socket.
        ValueError: a NUL in the path.
    """
    # O_NONBLOCK: opening a named pipe must not wait for a writer; O_NOCTTY: a terminal must not become ours
    harmless = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"))
    descriptor = os.open(path, os.O_RDONLY | harmless)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return open(descriptor, "rb"), status.st_size


def read_bytes(path: Path) -> bytes | None:
    """Bytes of a file; None if there is no such file.

    Raises:
        StorageError: it is there and cannot be read. Not the same as damaged: the next attempt may succeed.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}. Check the disk and your permissions.") from error


def sync_folder(path: Path) -> None:
    """Force the names in a folder to disk. File systems that cannot (some network mounts) are left as they are."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
    step(f"synced folder {path.name}")


def set_aside(path: Path, quarantine: Path) -> Path:
    """Move a damaged file or folder into `quarantine` under a free name; return where it went. Nothing is deleted.

    Raises:
        StorageError: it could not be moved.
    """
    with guard(quarantine, 0):
        quarantine.mkdir(exist_ok=True)
        target = quarantine / path.name
        if target.exists():
            target = quarantine / f"{path.name}.{uuid.uuid4().hex[:8]}"
        os.rename(path, target)
        step(f"set aside {path.name}")
    return target


def sweep(folder: Path) -> None:
    """Remove the unfinished files and folders directly in `folder`. A live writer's look the same: stop it first.

    Raises:
        StorageError: the disk refused.
    """
    for path in [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]:
        with guard(path, 0):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def preflight(folder: Path) -> None:
    """Write, sync and remove a small file in `folder`, so that a run is refused before it trains.

    Raises:
        StorageError: the folder is missing, full, read-only or not permitted.
    """
    probe = temporary_name(folder / "preflight")
    with guard(folder, 4096):
        try:
            write_durable(probe, bytes(4096))
        finally:
            with suppress(OSError):
                probe.unlink()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
