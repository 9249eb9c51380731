"""One driver on a run directory: a kernel lock, and a lease for where kernel locks mean nothing.

The kernel frees its lock when the holder dies, but on some network file systems it holds on one host only. So the holder
also leaves ``lock.json``, in which a counter goes up every few seconds. Who wants a run that another host holds watches
the counter: if it moves, the holder lives. Nobody reads a clock, so none can be wrong.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock

from gtl import storage
from gtl.errors import RunError
from gtl.population.processes import BOOT, boot_id

LEASE, KERNEL = "lock.json", ".lock"
BEAT = 5.0  # seconds between two signs of life
MISSED = 6  # so many beats without one: the holder is dead
NAPS = 30  # looks at a lease while waiting for a sign of life


def warn(message: str) -> None:
    """What happens to messages that nobody asked for: a warning of Python's."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def holder(run: Path) -> str | None:
    """Who holds a run directory, such as "process 17 on node-3", or held it until it was killed; None if no one.

    Raises:
        StorageError: the disk refused to read it.
    """
    lease = storage.read_bytes(run / LEASE)
    return None if lease is None else _named(lease)


class RunLock:
    """Context manager: inside it, this process is the one driver of a run directory.

    Raises on entry:
        RunError: another live driver holds it; names its process and host.
        StorageError: the directory cannot be written to (tested by writing).
    """

    def __init__(self, run: Path, say: Callable[[str], None] = warn) -> None:
        self._run, self._lease, self._say = run, run / LEASE, say
        # without flock it says so, instead of leaving a file that outlives a killed driver: the lease decides then
        self._kernel = filelock.FileLock(run / KERNEL, timeout=0, fallback_to_soft=False)
        self._me = {"pid": os.getpid(), **_machine(), "token": uuid.uuid4().hex, "every": BEAT}
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._live, name="gtl lease", daemon=True)

    def __enter__(self) -> RunLock:
        kernel_says = self._lock_kernel()
        try:
            storage.preflight(self._run)
            self._take(kernel_says)
            self._heart.start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if os.getpid() != self._me["pid"]:  # a forked child on its way out: the lock is its parent's
            return
        self._stop.set()
        self._heart.join()
        self._leave()

    def check(self) -> None:
        """Make sure, before writing, that no one took over while this process slept (paused machine, closed lid).

        Raises:
            RunError: someone did.
            StorageError: the disk refused to read the lease.
        """
        if os.getpid() != self._me["pid"]:
            raise RunError(f"process {os.getpid()} was forked from the driver of {self._run}; only the driver writes")
        lease = storage.read_bytes(self._lease)
        if lease is None:
            raise RunError(
                f"{self._lease} is gone: another driver had {self._run} while this one was asleep, or the file was "
                "removed by hand. This one writes nothing more; `gtl resume` goes on from the last whole generation."
            )
        if not self._is_mine(lease):
            raise RunError(
                f"another driver, {_named(lease)}, has taken over {self._run} while this one was asleep; this one "
                "writes nothing more. Let that one go on."
            )

    def _leave(self) -> None:
        """Remove the lease, if it is still ours, and free the kernel's lock."""
        with suppress(OSError):
            lease = self._lease.read_bytes()
            if self._is_mine(lease):
                _remove(self._lease, lease)
        self._kernel.release()

    def _lock_kernel(self) -> bool:
        """Take the kernel's lock without waiting; False where the file system has none and only the lease counts."""
        with storage.guard(self._run, 4096):
            try:
                self._kernel.acquire()
            except filelock.Timeout:
                # Where Python has no fcntl, every lock is a SoftFileLock: a file that a killed driver leaves.
                if not isinstance(self._kernel, filelock.SoftFileLock):
                    raise self._in_use() from None
            except NotImplementedError:  # what an older filelock says then
                return False
            except OSError as error:
                if error.errno not in {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}:
                    raise
                return False
        return not isinstance(self._kernel, filelock.SoftFileLock)

    def _take(self, kernel_says: bool) -> None:
        """Put our lease where there is none or a dead one. Of several who try, one succeeds."""
        found = storage.read_bytes(self._lease)
        why = None
        if found is not None:
            them = _read(found)
            # The same kernel gave us its lock: it knows that the holder is dead. A host of the same name that was
            # started at another time may be another host, so its lease is watched, too.
            if kernel_says and {name: them.get(name) for name in ("host", "boot")} == _machine():
                why = "is dead"
            else:
                why = self._watch(found, them)
        try:
            with storage.guard(self._lease, 4096):
                if why is not None and found is not None and not _remove(self._lease, found):
                    raise FileExistsError
            storage.publish(self._lease, self._record(0))
        except FileExistsError:  # another was quicker, or the holder woke up
            raise self._in_use() from None
        if why is not None and found is not None:
            self._say(f"{_named(found)}, which drove {self._run}, {why}; this driver takes over")

    def _watch(self, found: bytes, them: dict[str, Any]) -> str | None:
        """Wait for a sign of life of a lease's holder; say how we know that it is dead, None if it left meanwhile.

        Naps are counted instead of time: one that took long, since this machine or its disk slept, is one nap.
        """
        every = them.get("every")
        patience = MISSED * (every if isinstance(every, int | float) and 0 < every <= 60 else BEAT)
        self._say(f"{_named(found)} holds {self._run}, says {LEASE}; waiting {patience:g} s for a sign of life of it")
        for _ in range(NAPS):
            time.sleep(patience / NAPS)
            now = storage.read_bytes(self._lease)
            if now is None:
                return None
            if now != found:
                raise self._in_use()
        return f"gave no sign of life for {patience:g} s"

    def _live(self) -> None:
        """The heart: goes up by one every BEAT, until the lock is released or is no longer ours."""
        beat, mine = 0, True
        while mine and not self._stop.wait(BEAT):
            beat += 1
            with suppress(OSError):  # a disk in trouble must not end the run from here; its next commit will tell
                mine = self._renew(beat)

    def _renew(self, beat: int) -> bool:
        """Write the counter in place, through the descriptor in which our token was just read. False: not our lease.

        A new file under the old name could overwrite that of a driver which takes over between check and rename. This
        cannot: taking over gives the name to another file, and ours, if still open, is one that no one reads. It also
        needs no space on a full disk. Length stays, so a reader sees at worst a mixture of digits, which is a change,
        too. No fsync: closing tells a network server, and a crashed machine's lease may be old.
        """
        with self._lease.open("r+b", buffering=0) as stream:
            if not self._is_mine(stream.read()):
                return False
            stream.seek(0)
            stream.write(self._record(beat))
        return True

    def _record(self, beat: int) -> bytes:
        return f'{json.dumps(self._me)[:-1]}, "beat": {beat:12d}}}\n'.encode()

    def _is_mine(self, lease: bytes) -> bool:
        return str(self._me["token"]).encode() in lease  # not parsed: digits of the counter may just be changing

    def _in_use(self) -> RunError:
        return RunError(
            f"{self._run} is in use by another driver ({holder(self._run) or 'it has not said which'}). Wait for it or "
            "stop it; `gtl status` and `gtl export` work meanwhile."
        )


def _machine() -> dict[str, str]:
    """What tells this machine, since it was started, from others that see the same files."""
    return {"host": socket.gethostname(), "boot": boot_id(BOOT)}  # where a system names no boot, the host must do


def _read(lease: bytes) -> dict[str, Any]:
    """What a lease says; {} if it is damaged."""
    try:
        found = json.loads(lease)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _named(lease: bytes) -> str:
    pid, host = (_read(lease).get(name) for name in ("pid", "host"))
    if isinstance(pid, int) and isinstance(host, str) and host.isprintable():
        return f"process {pid} on {host}"
    return "a process that has not said which"


def _remove(path: Path, wanted: bytes) -> bool:
    """Remove a lease if it is still, byte for byte, `wanted`. One that changed meanwhile stays; then False.

    Moved aside first: between a look at a name and its removal, the name could come to lead to another's lease.
    """
    aside = storage.temporary_name(path)  # a name that `sweep` knows, if we are killed here
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    if aside.read_bytes() == wanted:
        aside.unlink()
        return True
    with suppress(OSError):  # a third may have put its own there: then the one that is aside sees itself replaced
        storage.rename_if_absent(aside, path)
    aside.unlink(missing_ok=True)
    return False
