"""Checks of disks and folders: space, shared memory, writing, locks. Nothing is left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from gtl import storage
from gtl.cluster.check import Check, size
from gtl.errors import StorageError

FULL = 0.95  # Ray refuses new objects on a disk that is fuller
LEAST_FREE = 5 << 30  # a run keeps the genes of two generations, and Ray spills to disk what memory cannot hold
LEAST_SHARED = 1 << 30
SHARE = 0.3  # of memory: what Ray takes for its object store
LONGEST_RAY_FOLDER = 38  # bytes; Ray puts sockets 69 bytes deeper, and the system cuts their paths at 107
REMOTE = re.compile(r"nfs\d?|cifs|smb\d?|fuse\.sshfs|9p|afs")
IN_MEMORY = ("tmpfs", "ramfs")
MOUNTS = Path("/proc/mounts")

# Tries to take a lock that another process holds, then says so; takes it again when that one let go.
_OTHER = """
import fcntl, sys
stream = open(sys.argv[1])
for _ in range(2):
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("got", flush=True)
    except BlockingIOError:
        print("busy", flush=True)
    sys.stdin.readline()
"""


def ray_folder() -> Path:
    """Where Ray keeps its sessions: ``ray`` below ``$RAY_TMPDIR``, ``$TMPDIR`` (on Linux) or ``/tmp``, as Ray looks."""
    base = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform == "linux" else None)
    return Path(base or "/tmp") / "ray"


def nearest(folder: Path) -> Path:
    """The folder, or the first one above it that exists: where it would be made."""
    folder = folder.absolute()
    while not os.path.exists(folder) and folder != folder.parent:  # Path.exists raises where it may not look
        folder = folder.parent
    return folder


def space(name: str, folder: Path, least: int = LEAST_FREE) -> Check:
    """Free space where a folder lies or will lie."""
    usage = os.statvfs(nearest(folder))
    free, total = usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize
    full = 1 - free / total if total else 0.0
    found = f"{size(free)} free of {size(total)} ({full:.0%} full) for {folder}"
    if full > FULL:
        remedy = f"free space there, or choose another disk; above {FULL:.0%} Ray refuses new objects"
        return Check(name, "problem", found, remedy)
    if free < least:
        return Check(name, "warning", found, f"free {size(least)} there, or choose another disk")
    return Check(name, "ok", found)


def shared_memory(folder: Path = Path("/dev/shm"), memory: int | None = None) -> Check:
    """Size of the shared memory that holds Ray's objects; containers give only 64 MiB unless told."""
    name = "shm"
    if not folder.is_dir():
        return Check(name, "ok", f"no {folder} on this system; Ray keeps its objects elsewhere")
    usage = shutil.disk_usage(folder)
    total = memory_size() if memory is None else memory
    found = f"{size(usage.total)} in {folder}, {size(usage.free)} free"
    wanted = max(LEAST_SHARED, int(total * SHARE))
    if usage.total < wanted:
        gib = -(-wanted // (1 << 30))
        return Check(
            name, "warning", f"{found}; {size(total)} memory", f"docker run --shm-size={gib}g, or remount it larger"
        )
    if usage.free < LEAST_SHARED:
        return Check(name, "warning", found, f"end what fills {folder}: Ray then keeps objects on disk, which is slow")
    return Check(name, "ok", found)


def memory_size() -> int:
    """Bytes of memory in all, cut by a container's limit; 0 where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    with suppress(OSError, ValueError):  # "max" means no limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def writable(name: str, folder: Path) -> Check:
    """Whether a folder takes a file, by writing one; a folder that is not there yet is judged by the one above it."""
    place = nearest(folder)
    try:
        storage.preflight(place)
    except StorageError as error:
        return Check(name, "problem", str(error).split(". ")[0], f"make {folder} writable, or choose another folder")
    if place == folder.absolute():
        return Check(name, "ok", f"{folder} can be written")
    return Check(name, "ok", f"{folder} can be made in {place}")


def ray_writable(folder: Path) -> Check:
    """Like `writable`, and the path is short enough for the sockets that Ray makes below it."""
    name = "ray-folder"
    length = len(os.fsencode(folder.absolute()))
    if length > LONGEST_RAY_FOLDER:
        found = f"{folder} is {length} bytes long; Ray's sockets below it would pass the system's limit"
        return Check(name, "problem", found, f"RAY_TMPDIR=/tmp, or another of at most {LONGEST_RAY_FOLDER - 4} bytes")
    return writable(name, folder)


def locks(folder: Path, mounts: Path = MOUNTS) -> Check:
    """Whether the file system keeps two drivers out of one run, and keeps names after a power cut."""
    name, place = "locks", nearest(folder)
    kind = file_system(place, mounts)
    where = f"{place} ({kind})" if kind else str(place)
    remedy = "keep runs on a local disk; copy them afterwards"
    try:
        trouble = _lock_trouble(place) or folder_sync_trouble(place)
    except OSError as error:
        return Check(name, "problem", f"no lock file in {where}: {error.strerror}", remedy)
    if trouble:
        return Check(name, "problem", f"{where}: {trouble}", remedy)
    if REMOTE.fullmatch(kind):
        found = f"{where} is a network disk: locks work on this machine, but may not hold between machines"
        return Check(name, "warning", found, f"{remedy}, or never start a run from two machines")
    if kind in IN_MEMORY:
        return Check(name, "warning", f"{where} is memory: runs in it are lost with a restart", "keep runs on a disk")
    return Check(name, "ok", f"{where} keeps two processes apart and syncs folders")


def _lock_trouble(folder: Path) -> str:
    """What is wrong with exclusive locks in a folder, tried from two processes: on some network disks two handles of
    one process tell nothing.
    """
    try:
        import fcntl
    except ImportError:
        return ""  # Windows locks otherwise, and its locks always hold
    path = storage.temporary_name(folder / "lock")
    try:
        with path.open("xb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return f"locks are not served ({error.strerror})"
            with subprocess.Popen(
                [sys.executable, "-c", _OTHER, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as other:
                assert other.stdin is not None and other.stdout is not None
                first = other.stdout.readline().strip()
                fcntl.flock(stream, fcntl.LOCK_UN)
                with suppress(BrokenPipeError):  # it has ended; unbuffered, or closing the pipe would raise this again
                    os.write(other.stdin.fileno(), b"\n")
                second = other.stdout.readline().strip()
                other.kill()  # our own child; it has said all
        if first == "got":
            return "two processes get the same exclusive lock"
        if (first, second) == ("busy", "got"):
            return ""
        return "a lock that was given back stays taken" if second else "a second process cannot try a lock"
    finally:
        with suppress(OSError):
            path.unlink()


def folder_sync_trouble(folder: Path) -> str:
    """What is wrong with forcing the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        return f"folders cannot be synced ({errno.errorcode.get(error.errno or 0, '?')}); a power cut may lose a commit"
    finally:
        os.close(descriptor)
    return ""


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """Kind of the file system that holds a path (ext4, nfs4, ...); empty where the system does not tell."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    resolved = path.resolve()
    for line in lines:
        words = line.split()
        if len(words) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), words[1]))  # spaces come as \040
        if len(point.parts) >= best and resolved.is_relative_to(point):  # the later of two mounts covers the earlier
            best, kind = len(point.parts), words[2]
    return kind
