"""Ray clusters of this machine for tests: all nodes are kept by a process of their own, so that any of them may be killed.

As a script it is that process: it starts the head, then does what standard input says (``add 2``, ``kill NODE``,
``drain NODE 60``, ``behead``), answers each with a line of JSON, and kills all of them when standard input ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gtl.population.processes import start_time

TUNED = {  # notice dead nodes within a second or two, not within half a minute
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "2",
    "RAY_health_check_timeout_ms": "500",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",  # as for all tests
}


def quiet(**environment: str) -> dict[str, str]:
    """The environment of a Ray that knows nothing of the user's: no address, no token, no settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    here = Path(__file__).parent  # workers find the faults in it
    return {**inherited, **TUNED, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), **environment}


class Nodes:
    """Context manager: a cluster of so many nodes, the first of which is the head.

    Args:
        cpus: of each node.
        environment: of all its processes.

    Attributes:
        address: where drivers find it.
        nodes: ids, the head's first.
        folder: Ray's session folders and sockets.
    """

    def __init__(self, *cpus: int, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gtl-", dir="/tmp"))  # sockets have short paths only
        self.environment = quiet(**{"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(self.folder), **environment})
        self._log = (self.folder / "keeper.log").open("w")
        self._keeper = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, env=self.environment, start_new_session=True,
        )  # fmt: skip
        self.nodes: list[str] = []
        try:
            self.address = str(self._ask(f"add {cpus[0]}")["address"])
            for count in cpus[1:]:
                self.add(count)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, cpus: int) -> str:
        """One more node; its id."""
        return str(self._ask(f"add {cpus}")["node"])

    def kill(self, node: str) -> None:
        """Signal 9 to a node's raylet."""
        self._ask(f"kill {node}")
        self.nodes.remove(node)

    def drain(self, node: str, seconds: int) -> None:
        """Tell a node that its machine will be taken away, as a cloud does."""
        self._ask(f"drain {node} {seconds}")

    def behead(self) -> None:
        """Signal 9 to the service on the head that knows all others."""
        self._ask("behead")

    def processes(self, *titles: str) -> list[int]:
        """Pids that live, also those whose parents do not; only those with one of these in their command, if given."""
        return in_session(self._keeper.pid, *titles)

    def close(self) -> None:
        """End every process, and remove the folder."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(20)
        self._keeper.kill()
        self._keeper.wait()
        assert self._keeper.stdout is not None
        self._keeper.stdout.close()
        self._log.close()
        end_session(self._keeper.pid)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._keeper.stdin is not None and self._keeper.stdout is not None
        self._keeper.stdin.write(command + "\n")
        self._keeper.stdin.flush()
        answer = self._keeper.stdout.readline()
        assert answer, f"the cluster ended: {(self.folder / 'keeper.log').read_text()[-2000:]}"
        found: dict[str, Any] = json.loads(answer)
        assert "error" not in found, found["error"]
        if command.startswith("add"):
            self.nodes.append(found["node"])
        return found


def in_session(session: int, *titles: str) -> list[int]:
    """Living processes of a session: a parent's death does not move its children out of it."""
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError, IndexError):
            if entry.isdigit() and os.getsid(int(entry)) == session and start_time(int(entry)) is not None:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
                if not titles or any(title.encode() in command for title in titles):
                    found.append(int(entry))
    return found


def end_session(session: int) -> None:
    """Kill what a session has left; twice, since a parent may have started another child meanwhile."""
    end = time.monotonic() + 20
    while (left := in_session(session)) and time.monotonic() < end:
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    assert not left, f"processes that cannot be killed: {left}"


def silent_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _keep() -> None:
    """In the process of its own."""
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster
    from ray.core.generated import autoscaler_pb2

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever Ray prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cluster = Cluster(shutdown_at_exit=False)
    nodes: dict[str, Any] = {}
    for line in sys.stdin:
        command, *words = line.split()
        answer: dict[str, Any] = {}
        try:
            if command == "add":
                first = (
                    {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False} if not nodes else {}
                )
                node = cluster.add_node(num_cpus=int(words[0]), object_store_memory=100 << 20, **first)
                nodes[node.node_id] = node
                answer = {"node": node.node_id, "address": cluster.address}
            elif command == "kill":
                _kill(nodes.pop(words[0]), "raylet")
            elif command == "behead":
                _kill(cluster.head_node, "gcs_server")
            elif command == "drain":
                reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
                until = int((time.time() + int(words[1])) * 1000)
                accepted, why = GcsClient(address=cluster.address).drain_node(words[0], reason, "spot", until)
                answer = {} if accepted else {"error": why}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    for pid in in_session(os.getpid()):
        if pid != os.getpid():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _kill(node: Any, kind: str) -> None:
    process = node.all_processes[kind][0].process
    process.kill()
    process.wait()  # a zombie would still be a parent to its workers


if __name__ == "__main__":
    _keep()
