"""This machine: what it lets one process use, as containers and schedulers limit it; what it is; a fresh process on it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
# glibc's mallopt: its numbers for what is given back to the system, and what they are set to (a C int at most)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2**31 - 1), (-3, 2**30)
_OWN_WISHES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def cores() -> int:
    """CPU cores that this process may use: the system's, cut by affinity and by a container's quota; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit() and int(period) > 0:
        count = min(count, max(1, int(quota) // int(period)))
    return max(1, count)


def usual_threads() -> int:
    """CPU threads that a process which has the machine to itself computes with: ``OMP_NUM_THREADS``, else the cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else cores()


def available_memory() -> int:
    """Bytes of memory that can still be used, cut by a container's limit; 0 where the system does not tell."""
    found = 0
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            found = int(line.split()[1]) * 1024
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        found = min(found or int(limit), max(0, int(limit) - int(used)))
    return found


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for what it needs next. Changes no number that is computed.

    A training step frees what it allocated, and the next one allocates the same. glibc gives such large pieces back to the
    system in between, which then hands out every page anew, filled with zeros (what that costs: docs/performance.md).

    Returns:
        False where nothing was changed: another C library than glibc, or a user who has set glibc's own variables.
    """
    if any(name in os.environ for name in _OWN_WISHES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return False
    return all(mallopt(name, value) for name, value in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))


def cpu_model() -> str:
    """The processor's name, with the numbers that tell models apart where a virtual machine hides the name."""
    first = _read(Path("/proc/cpuinfo")).partition("\n\n")[0]
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    known = [facts[name] for name in ("model name", "cpu family", "model", "stepping") if name in facts]
    return " ".join([platform.machine(), *(known or [platform.processor()])]).strip()


def run_apart(module: str, given: str) -> subprocess.CompletedProcess[str]:
    """Run one of gtl's modules in a fresh Python process, with `given` on its standard input, and wait for its end."""
    # found where this module was, and not in the current folder, which may hold anything
    package = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=given,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
