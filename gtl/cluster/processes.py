"""Ray's processes of this user, read from /proc (Linux): which of them nobody looks after any more.

Ray renames its workers, which wipes their arguments and often their environment; so what belongs together is read from
parents, and from the session that the servers have in their arguments.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gtl.cluster.check import Check

PROC = Path("/proc")
STARTING = 60.0  # seconds in which a head may have its control service but no raylet yet
SERVERS = ("gcs_server", "raylet")
_SCRIPTS = {
    "/ray/autoscaler/_private/monitor.py": "monitor",
    "/ray/_private/log_monitor.py": "log_monitor",
    "/ray/dashboard/dashboard.py": "dashboard",
    "/ray/dashboard/agent.py": "dashboard_agent",
    "/ray/_private/runtime_env/agent/main.py": "runtime_env_agent",
    "/ray/_private/workers/default_worker.py": "worker",
}
_BELOW_RAYLET = ("dashboard_agent", "runtime_env_agent", "worker")
_SESSION = re.compile(r"session_[0-9]{4}(?:[-_][0-9]+)+")
_GCS = re.compile(r"--gcs-address=(\S+):([0-9]+)")


@dataclass(frozen=True)
class Process:
    """One process.

    Attributes:
        role: what it is to Ray (``raylet``, ``gcs_server``, ``dashboard``, ``ray::Worker``, ...); empty: not of Ray.
        session: Ray's name of the cluster's life that it belongs to; empty where it does not say.
        gcs: host and port of the control service that a raylet belongs to.
        age: seconds.
    """

    pid: int
    parent: int
    role: str = ""
    session: str = ""
    gcs: tuple[str, int] | None = None
    age: float = 0.0


Table = dict[int, Process]


def process_table() -> Table:
    """Every process by its pid; `role` is given only to living ones of this user."""
    with suppress(OSError, ValueError):
        uptime = float((PROC / "uptime").read_text().split()[0])
        return {found.pid: found for pid in os.listdir(PROC) if pid.isdigit() and (found := _process(int(pid), uptime))}
    return {}


def _process(pid: int, uptime: float) -> Process | None:
    """One process; None if it has ended meanwhile. A zombie has no role: there is nothing left of it to end."""
    folder = PROC / str(pid)
    try:
        # The second field is a name in parentheses that may hold anything, parentheses too.
        fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        parent, started = int(fields[1]), int(fields[19]) / os.sysconf("SC_CLK_TCK")
        if fields[0] in "ZX" or folder.stat().st_uid != os.getuid():
            return Process(pid, parent)
        words = [word for word in (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0") if word]
    except (OSError, ValueError, IndexError):
        return None
    text = " ".join(words)
    session, gcs = _SESSION.search(text), _GCS.search(text)
    return Process(
        pid,
        parent,
        _role(words),
        session[0] if session else "",
        (gcs[1], int(gcs[2])) if gcs else None,
        max(0.0, uptime - started),
    )


def _role(words: list[str]) -> str:
    if not words:
        return ""
    first = words[0].strip()
    if first.startswith("ray::"):
        return first.split()[0]
    if first.startswith("ray-dashboard-"):
        return "dashboard"
    if os.path.basename(first) in SERVERS:
        return os.path.basename(first)
    # Only the words where a script stands: a raylet's arguments name the scripts of its agents too.
    return next((role for word in words[1:4] for end, role in _SCRIPTS.items() if word.endswith(end)), "")


def ray_above(process: Process, table: Table) -> list[Process]:
    """Ray's servers among a process's parents and theirs, the nearest first."""
    above, seen = [], {process.pid}
    while (parent := table.get(process.parent)) is not None and parent.pid not in seen:
        seen.add(parent.pid)
        if parent.role in SERVERS:
            above.append(parent)
        process = parent
    return above


def leftovers(table: Table, starting: float = STARTING) -> list[tuple[Process, str]]:
    """Ray's processes that nobody looks after, and why we think so.

    Being a child of process 1 proves nothing: ``ray start`` leaves its servers there on purpose.
    """
    ours = [process for process in table.values() if process.role]
    heads = {process.session for process in ours if process.role == "gcs_server"} - {""}
    nodes = {process.session for process in ours if process.role == "raylet"} - {""}
    found = []
    for process in ours:
        reason = ""
        if process.role == "raylet":
            if process.session not in heads and not _answers(process.gcs):
                reason = "its control service (gcs_server) is gone"
        elif process.role == "gcs_server":
            if process.session not in nodes and process.age >= starting:
                reason = "its node's raylet is gone"
        elif process.role.startswith("ray::") or process.role in _BELOW_RAYLET:
            if not any(server.role == "raylet" for server in ray_above(process, table)):
                reason = "no raylet is above it"
        elif process.session not in heads | nodes:
            reason = "its session has ended"
        if reason:
            found.append((process, reason))
    return sorted(found, key=lambda each: each[0].pid)


def _answers(address: tuple[str, int] | None) -> bool:
    if address is None:
        return False
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError:
        return False
    return True


def orphans(table: Table) -> Check:
    """Ray's processes of this user that were left behind; they keep memory and GPUs. Listed, never ended."""
    name = "orphans"
    if not table:
        return Check(name, "ok", "not looked for: this system has no /proc")
    found = leftovers(table)
    if not found:
        count = sum(1 for process in table.values() if process.role)
        return Check(name, "ok", f"none among {count} Ray processes of yours" if count else "no Ray process of yours")
    shown = [f"{process.pid} {process.role}, {_age(process.age)} old: {reason}" for process, reason in found]
    more = [f"and {len(shown) - 8} more"] if len(shown) > 8 else []
    pids = " ".join(str(process.pid) for process, _ in found)
    # Some notice by themselves that their cluster is gone, but take up to a minute.
    return Check(name, "warning", "; ".join(shown[:8] + more), f"if they are still there in a minute: kill {pids}")


def _age(seconds: float) -> str:
    for unit, count in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * count:
            return f"{seconds / count:.0f} {unit}"
    return f"{seconds:.0f} s"
