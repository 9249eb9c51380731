"""Processes by pid and start time, so that what a killed driver left behind can be ended without harming others.

Linux only (it reads /proc); elsewhere nothing is found and nothing is ended.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot_id(path: Path = BOOT) -> str:
    """Names this boot of this machine; "" where the system has no such name."""
    with suppress(OSError):
        return path.read_text().strip()
    return ""


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if there is none, or it is a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def descendants(pid: int) -> list[int]:
    """Pids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, below = [], list(children.get(pid, ()))
    while below:
        child = below.pop()
        found.append(child)
        below += children.get(child, ())
    return found


def record(pids: Iterable[int]) -> dict[str, Any]:
    """What `end_leftovers` needs to know these processes again."""
    started = [(pid, start_time(pid)) for pid in pids]
    return {
        "host": socket.gethostname(),
        "boot": boot_id(),
        "processes": [[pid, at] for pid, at in started if at is not None],
    }


def end_leftovers(found: dict[str, Any]) -> int:
    """End what is still alive of recorded processes, on the machine and boot they belong to; return how many."""
    if found.get("host") != socket.gethostname() or found.get("boot") != boot_id() or not found.get("boot"):
        return 0
    ended = 0
    for entry in found.get("processes", ()):
        if not isinstance(entry, Sequence) or len(entry) != 2 or not all(isinstance(n, int) for n in entry):
            continue
        pid, at = entry
        if pid > 1 and start_time(pid) == at:  # the same pid with another start time is somebody else
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                ended += 1
    return ended


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on (state, parent, ...): the second is a name that may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
