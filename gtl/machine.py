"""What this machine lets one process use: cores and memory, as containers and schedulers limit them."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


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


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
