"""`gtl doctor`: looks, before a run does, at everything that a run needs. It changes nothing and ends nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from gtl.cluster import disks, security, software
from gtl.cluster.check import Check
from gtl.cluster.processes import orphans, process_table
from gtl.data.cache import cache_dir


def examine(runs: Path, address: security.Address | None = None) -> Iterator[Check]:
    """Every check in turn, each as soon as it is done.

    Args:
        runs: the folder of a run, or the one in which runs are made; need not be there yet.
        address: of a running cluster that the runs should join.
    """
    yield _settled("python", software.python)
    yield _settled("packages", software.packages)
    probe = software.ask_torch()
    yield _settled("torch", lambda: software.torch(probe))
    yield _settled("machine", lambda: software.machine(probe))
    yield _settled("gpu", lambda: software.gpu(probe))
    yield _settled("clock", software.clock)
    temporary = disks.ray_folder()
    yield _settled("run-space", lambda: disks.space("run-space", runs))
    yield _settled("ray-space", lambda: disks.space("ray-space", temporary))
    yield _settled("shm", disks.shared_memory)
    yield _settled("run-folder", lambda: disks.writable("run-folder", runs))
    yield _settled("cache", lambda: disks.writable("cache", cache_dir()))
    yield _settled("ray-folder", lambda: disks.ray_writable(temporary))
    yield _settled("locks", lambda: disks.locks(runs))
    yield _settled("token", lambda: security.token(address))
    yield _settled("statistics", security.statistics)
    table = process_table()
    yield _settled("orphans", lambda: orphans(table))
    yield _settled("ports", lambda: security.ports(table))
    if address is not None:
        yield _settled("address", lambda: security.answers(address))


def _settled(name: str, check: Callable[[], Check]) -> Check:
    """The check's finding; one that fails itself must not hide what the others find."""
    try:
        return check()
    except Exception as error:
        found = f"could not be looked at ({type(error).__name__}: {error})"
        return Check(name, "problem", found, "report this as a fault of gtl, with the line above")
