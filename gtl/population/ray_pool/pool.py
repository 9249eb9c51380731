"""RayPool: worker processes on one machine or a cluster, and calls that survive them.

The driver owns the truth; workers hold only caches. Ray neither retries nor restarts anything: the loop in `run` hands
calls out, notices what is late or dead, and tries again elsewhere. No torch in here: what a worker needs, it imports.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from gtl.config import ClusterSection
from gtl.errors import ClusterError, GtlError
from gtl.individual import Status
from gtl.population.observer import WorkerReport
from gtl.population.processes import descendants
from gtl.population.ray_pool.connection import Room, connect, draining, is_memory, own_node, sentence
from gtl.population.ray_pool.seats import Node, Seat, Tally
from gtl.population.ray_pool.traffic import References, Traffic, size
from gtl.population.retry import Call, Deadlines, Lost, Queue
from gtl.population.signals import Signals

LOOK = 0.5  # seconds that the loop waits for results before it looks at signals and deadlines
BACKLOG = 0.001  # seconds: when the first result was there so soon, others may be there, too
REFRESH = 2.0  # seconds between two looks at which nodes there are
PATIENCE = 600.0  # seconds without a single worker before the run gives up
PREPARE = Callable[[Any], tuple[Mapping[str, str], Any]]


class _Worker:
    """Runs in a worker process. Ray never restarts it: a dead one is replaced by a new one."""

    def __init__(self, prepare: PREPARE, shared: Any) -> None:
        self.facts, self.context = prepare(shared)

    def hello(self) -> tuple[int, str, Mapping[str, str]]:
        """Pid, host and what it computes with: it is ready."""
        return os.getpid(), socket.gethostname(), self.facts

    def run(self, work: tuple[Any, tuple[Any, ...]], *blobs: bytes) -> Any:
        """One call: its function and arguments."""
        function, args = work
        return function(self.context, *args, *blobs)


def _no_blobs(digest: str) -> bytes:
    raise KeyError(digest)


class RayPool:
    """Workers that run calls. Started by the first use; a context manager.

    Args:
        room: where workers may be.
        section: deadlines and attempts.
        prepare: makes (facts, context) in every worker from `shared`; importable by name.
        shared: read-only, sent to every node once (numpy arrays stay in shared memory).
        report: called when something about the workers changes.

    Raises:
        ClusterError: by any method: the cluster is not reachable, or its workers die faster than they work.
    """

    def __init__(
        self,
        room: Room,
        section: ClusterSection,
        prepare: PREPARE,
        shared: Any,
        *,
        signals: Signals,
        report: Callable[[WorkerReport], None] = lambda report: None,
    ) -> None:
        self.room, self.section = room, section
        self.traffic = Traffic()
        self.warnings: tuple[str, ...] = ()
        self._prepare, self._shared, self._signals, self.report = prepare, shared, signals, report
        self._deadlines = Deadlines(section)
        self._seats: list[Seat] = []
        self._nodes: dict[str, Node] = {}
        self._staffed = False  # nothing has changed since workers were last hired
        self._shrunk: Counter[str] = Counter()  # node -> workers fewer, since memory did not suffice for all
        self._tally = Tally()
        self._looked = self._checked = self._alone_since = 0.0
        self._facts: list[Mapping[str, str]] = []
        self._ray: Any = None
        self._ours = False
        self._own_node = ""
        self._gpus = None if room.device == "auto" else room.device != "cpu"

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        for seat in list(self._seats):
            self._dismiss(seat)
        if self._ray is not None and self._ours:
            self._ray.shutdown()
        self._ray = None

    @property
    def facts(self) -> list[Mapping[str, str]]:
        """The distinct facts that workers have greeted with; waits for the first worker."""
        if not self._facts:
            list(self.run([]))
        return self._facts

    @property
    def processes(self) -> list[int]:
        """Pids of this machine's Ray, if this pool has started it."""
        return descendants(os.getpid()) if self._ours and self.room.address is None else []

    def run(self, calls: Iterable[Call], fetch: Callable[[str], bytes] = _no_blobs) -> Iterator[list[tuple[Call, Any]]]:
        """Results as they arrive: lists of ``(call, value)``, or ``(call, Lost)`` where no worker could finish it.

        Args:
            fetch: the bytes of a blob, by content hash.

        Raises:
            GtlError: of the call's own function: a wrong configuration or bad data is not retried.
            StoppedError: a signal asked the run to stop.
        """
        calls = list(calls)
        queue = Queue(calls, self.section.attempts)
        references = References(self._start(), fetch, self.traffic, calls)
        self._alone_since = time.monotonic()
        try:
            while queue or any(seat.call for seat in self._seats) or not self._facts:
                self._signals.check()
                self._look_at_nodes()
                self._hire()
                self._hand_out(queue, references)
                collected = [(seat.call, self._collect(seat, queue)) for seat in self._arrived()]
                results = [(call, value) for call, value in collected if call is not None and value is not _NOTHING]
                results += self._overdue(queue)
                for call, _ in results:
                    references.release(call)
                self._hand_out(queue, references)  # first: nobody idles while the caller writes results down
                if results:
                    yield results
        finally:
            for seat in [seat for seat in self._seats if seat.call is not None]:
                self._dismiss(seat)  # the caller gave up: nobody waits for these

    # --- the cluster ----------------------------------------------------------------------------------------------

    def _start(self) -> Any:
        if self._ray is not None:
            return self._ray
        self._ray, self._ours, warning = connect(self.room)
        self._signals.install()  # ray.init takes SIGTERM for itself
        self._own_node = own_node(self._ray)
        self._shared_ref = self._ray.put(self._shared)
        self._shared = None  # the object store has it
        self._actor = self._ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=1, enable_task_events=False)(
            _Worker
        )  # events cost a twentieth of the driver's time, and say less than `gtl watch`
        self.warnings += (warning,) if warning else ()
        return self._ray

    def _look_at_nodes(self) -> None:
        now = time.monotonic()
        if now - self._looked < REFRESH:
            return
        self._looked = now
        leaving = draining(self._ray)
        alive = [entry for entry in self._ray.nodes() if entry["Alive"]]
        if self._gpus is None and self.room.device == "auto":  # settled once: all workers are of one kind
            self._gpus = any(entry["Resources"].get("GPU", 0) for entry in alive)
        gpus, nodes = bool(self._gpus), dict[str, Node]()
        for entry in alive:
            resources, name = entry["Resources"], entry["NodeID"]
            per = resources.get("GPU", 0) / self.room.gpus if gpus else resources.get("CPU", 0) / self.room.cpus
            room = int(per + 1e-6)
            if room:
                nodes[name] = Node(max(1, room - self._shrunk[name]), entry["NodeManagerHostname"], name in leaving)
        for name in nodes.keys() - self._nodes.keys() if self._nodes else ():
            self._say(f"node {nodes[name].host} joined, room for {nodes[name].room} workers")
        for name in self._nodes.keys() & leaving:
            if not self._nodes[name].draining:
                self._say(f"node {self._nodes[name].host} will be taken away, and gets no more work")
        for name in self._nodes.keys() - nodes.keys():
            self._say(f"node {self._nodes[name].host} is gone")
        self._nodes, self._staffed = nodes, False

    def _hire(self) -> None:
        """Start workers where there is room, spread evenly; let those go that there is no room for any more."""
        if self._staffed:
            return
        held = Counter(seat.node for seat in self._seats)
        for seat in [s for s in self._seats if s.call is None and s.ready]:
            node = self._nodes.get(seat.node)
            if node is None or node.draining or held[seat.node] > node.room:
                self._dismiss(seat)
                held[seat.node] -= 1
        open_nodes = {name: node for name, node in self._nodes.items() if not node.draining}
        capacity = sum(node.room for node in open_nodes.values())
        limit = min(self.room.workers or capacity, capacity)
        while len(self._seats) < limit:
            free = {name: held[name] / node.room for name, node in open_nodes.items() if held[name] < node.room}
            if not free:
                break
            name = min(free, key=lambda n: (free[n], n))
            held[name] += 1
            self._seats.append(self._new_worker(name))
        rooms = Counter({name: node.room for name, node in open_nodes.items()})
        self._staffed = held <= rooms  # otherwise somebody who is busy has to go
        if not any(seat.ready for seat in self._seats):
            self._staffed = False
            waited = time.monotonic() - self._alone_since
            if waited > PATIENCE or self._tally.starts_failed > max(5, 2 * limit):
                cause = self._tally.last_start or "the cluster has no room for a worker (see `ray status`)"
                raise ClusterError(
                    f"no worker could be started within {waited:.0f} s ({self._tally.starts_failed} failed): {cause}. "
                    "`gtl doctor` looks for the cause; the run can be resumed."
                )
        else:
            self._alone_since = time.monotonic()

    def _new_worker(self, node: str) -> Seat:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        resources = {"num_gpus": self.room.gpus, "num_cpus": 0} if self._gpus else {"num_cpus": self.room.cpus}
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = self._actor.options(scheduling_strategy=where, **resources).remote(self._prepare, self._shared_ref)
        return Seat(actor, node, actor.hello.remote(), time.monotonic())

    def _dismiss(self, seat: Seat) -> None:
        """End a worker, whatever it is doing."""
        self._seats.remove(seat)
        self._staffed = False
        with suppress(Exception):
            self._ray.kill(seat.actor, no_restart=True)
        if seat.pid and seat.node == self._own_node:  # a stopped or stuck process does not hear Ray
            with suppress(OSError):
                os.kill(seat.pid, signal.SIGKILL)

    # --- calls ----------------------------------------------------------------------------------------------------

    def _hand_out(self, queue: Queue, references: References) -> None:
        idle = [seat for seat in self._seats if seat.call is None and seat.ready] if queue else ()
        if not idle:
            return
        open_nodes = {name for name, node in self._nodes.items() if not node.draining}
        nodes = open_nodes & {seat.node for seat in self._seats}  # where a call could go now or soon
        for seat in idle:
            if seat.node not in nodes:
                continue
            call = queue.next_for(seat.node, nodes)
            if call is None:
                continue
            blobs = [references[digest] for digest in call.blobs]
            self.traffic.sent += size(call.args)
            seat.ref = seat.actor.run.remote((call.function, call.args), *blobs)
            seat.call, seat.since = call, time.monotonic()

    def _arrived(self) -> list[Seat]:
        """Seats whose greeting or result is there; waits a moment for the first."""
        by_ref = {seat.ref: seat for seat in self._seats if seat.ref is not None}
        if not by_ref:
            time.sleep(0.05)
            return []
        oldest: dict[tuple[str, int], float] = {}
        for seat in self._seats:
            if seat.call is not None:
                kind = seat.call.kind, seat.call.individuals
                oldest[kind] = min(seat.since, oldest.get(kind, 1e300))
        nearest = min((since + self._deadlines.seconds(*kind) for kind, since in oldest.items()), default=1e300)
        timeout = min(LOOK, max(0.01, nearest - time.monotonic()))
        began = time.monotonic()
        done, rest = self._ray.wait(list(by_ref), num_returns=1, timeout=timeout)
        if done and rest and time.monotonic() - began < BACKLOG:
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [by_ref[ref] for ref in done]

    def _collect(self, seat: Seat, queue: Queue) -> Any:
        """The result of a seat's call, or why it is lost; `_NOTHING` where it is to be tried again or was a greeting."""
        ref, call, took = seat.ref, seat.call, time.monotonic() - seat.since
        seat.ref = None
        try:
            value = self._ray.get(ref, timeout=60)
        except Exception as error:
            return self._failure(seat, call, error, queue, took)
        if call is None:
            seat.ready, seat.pid = True, value[0]
            self._tally.starts_failed = 0
            if value[2] not in self._facts:
                self._facts.append(value[2])
            self._say()
            return _NOTHING
        seat.call = None
        self.traffic.calls += 1
        self.traffic.received += size(value)
        self._deadlines.finished(call.kind, took)
        return value

    def _failure(self, seat: Seat, call: Call | None, error: Exception, queue: Queue, took: float) -> Any:
        """A worker that did not answer: whose fault was it, and what is to be done."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, GtlError):
            raise cause
        memory, reason = is_memory(error), sentence(error)
        if call is not None and not memory and isinstance(error, self._ray.exceptions.RayTaskError):
            seat.call = None  # its own exception, and it would raise it anywhere; the worker is well
            return Lost(Status.CRASHED, reason, took)
        self._dismiss(seat)
        self._tally.died += 1
        self._looked = 0.0  # the node may be gone
        self._look_at_nodes()
        node = self._nodes.get(seat.node)
        host = node.host if node else "a node that is gone"
        if memory and node is not None and node.room > 1:
            self._shrunk[seat.node] += 1
            node.room -= 1
            self._say(f"{host} has too little memory for {node.room + 1} workers, going on with {node.room}")
            node_at_fault = True
        else:
            node_at_fault = node is None or node.draining
        if call is None:
            if not node_at_fault:
                self._tally.starts_failed += 1
                self._tally.last_start = reason
            return _NOTHING
        if node_at_fault:
            queue.put_back(call)
            self._tally.retries += 1
            self._say(f"{call.key} is tried again: {reason}")
            return _NOTHING
        return self._again(call, seat, queue, f"worker on {host}: {reason}", took)

    def _overdue(self, queue: Queue) -> Iterator[tuple[Call, Lost]]:
        """Give up on workers that take too long."""
        now = time.monotonic()
        if now - self._checked < LOOK / 2:  # no need to go through all of them after every result
            return
        self._checked = now
        for seat in list(self._seats):
            took = now - seat.since
            if seat.call is None:
                if not seat.ready and took > PATIENCE:
                    self._tally.last_start = f"a worker did not start within {PATIENCE:.0f} s"
                    self._tally.starts_failed += 1
                    self._dismiss(seat)
            elif took > (given := self._deadlines.seconds(seat.call.kind, seat.call.individuals)):
                call = seat.call
                self._dismiss(seat)
                self._tally.died += 1
                reason = f"no answer within the {given:.0f} s that it was given"
                lost = self._again(call, seat, queue, reason, took, timed_out=True)
                if lost is not _NOTHING:
                    yield call, lost

    def _again(self, call: Call, seat: Seat, queue: Queue, reason: str, took: float, *, timed_out: bool = False) -> Any:
        lost = queue.failed(call, seat.node, reason, took, timed_out=timed_out)
        if lost is None:
            self._tally.retries += 1
            self._say(f"{call.key} is tried again: {reason}")
            return _NOTHING
        self._say(f"{call.key} is given up: {lost.reason}")
        return lost

    def _say(self, note: str = "") -> None:
        ready = sum(seat.ready for seat in self._seats)
        busy = sum(seat.call is not None for seat in self._seats)
        nodes, tally = len({seat.node for seat in self._seats if seat.ready}), self._tally
        self.report(WorkerReport(ready, len(self._seats) - ready, busy, tally.retries, tally.died, nodes, note))


_NOTHING = object()
