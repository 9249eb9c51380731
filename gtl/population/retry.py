"""When an evaluation has taken too long, and when it has cost too many workers. Numbers only: no processes, no Ray."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gtl.config import ClusterSection
from gtl.individual import Status

REMEMBERED = 101  # durations that a median is taken over: recent ones, and cheap to keep sorted


@dataclass(frozen=True)
class Call:
    """An idempotent piece of work: any worker at any time gives the same result.

    Attributes:
        key: names it in messages, and its result.
        kind: calls of one kind take about as long as each other.
        function: ``function(context, *args, *blobs)``, importable by name on a worker.
        args: frozen values.
        blobs: content hashes of bytes that follow the arguments.
        individuals: that it evaluates at once; its least deadline is so many times as long.
    """

    key: str
    kind: str
    function: Any
    args: tuple[Any, ...] = ()
    blobs: tuple[str, ...] = ()
    individuals: int = 1


@dataclass(frozen=True)
class Lost:
    """A call that no worker could finish: why, and the seconds that its last attempt took."""

    status: Status
    reason: str
    seconds: float = 0.0


class Deadlines:
    """How long a call may take: a multiple of the median of its kind, and never less than a minimum."""

    def __init__(self, section: ClusterSection) -> None:
        self._section = section
        self._recent: dict[str, deque[float]] = {}
        self._sorted: dict[str, list[float]] = {}

    def finished(self, kind: str, seconds: float) -> None:
        """A call of this kind took so long."""
        recent = self._recent.setdefault(kind, deque())
        ordered = self._sorted.setdefault(kind, [])
        recent.append(seconds)
        insort(ordered, seconds)
        if len(recent) > REMEMBERED:
            ordered.remove(recent.popleft())

    def seconds(self, kind: str, individuals: int = 1) -> float:
        """What a call of this kind is given; what the configuration sets counts for each of its individuals."""
        ordered = self._sorted.get(kind)
        if not ordered:
            return individuals * self._section.first_deadline
        return max(individuals * self._section.deadline, self._section.deadline_factor * ordered[len(ordered) // 2])


@dataclass
class _Record:
    """What a call has cost so far."""

    nodes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    timed_out: int = 0


class Queue:
    """Calls that wait, those that were tried before first; counts the workers that each has cost.

    Args:
        attempts: workers that a call may cost before it is given up.
    """

    def __init__(self, calls: Iterable[Call], attempts: int) -> None:
        self._fresh = deque(calls)
        self._again: list[Call] = []
        self._records: dict[str, _Record] = {}
        self._attempts = attempts

    def __len__(self) -> int:
        return len(self._fresh) + len(self._again)

    def next_for(self, node: str, nodes: Collection[str]) -> Call | None:
        """The next call for a worker on `node`; one that cost a worker there waits for another of `nodes` if it can."""
        for position, call in enumerate(self._again):
            tried = set(self._records[call.key].nodes) if call.key in self._records else set()
            if node not in tried or not set(nodes) - tried:
                return self._again.pop(position)
        return self._fresh.popleft() if self._fresh else None

    def put_back(self, call: Call) -> None:
        """It did not get to run, through no fault of its own: costs it nothing."""
        self._again.append(call)

    def failed(self, call: Call, node: str, reason: str, seconds: float, *, timed_out: bool = False) -> Lost | None:
        """It cost a worker. Back into the queue, or given up: then why."""
        record = self._records.setdefault(call.key, _Record())
        record.nodes.append(node)
        record.reasons.append(reason)
        record.timed_out += timed_out
        cost = len(record.nodes)
        if cost < self._attempts:
            self._again.append(call)
            return None
        status = Status.TIMED_OUT if 2 * record.timed_out > cost else Status.LOST
        nodes = len(set(record.nodes))
        text = f"cost {cost} workers on {nodes} node{'s' if nodes > 1 else ''}; the last: {record.reasons[-1]}"
        return Lost(status, text, seconds)

    def drain(self) -> Iterator[Call]:
        """All that wait, removed."""
        while self._again or self._fresh:
            yield self._again.pop() if self._again else self._fresh.popleft()
