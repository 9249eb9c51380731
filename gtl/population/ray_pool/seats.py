"""What the driver knows of workers and machines. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gtl.population.retry import Call


@dataclass(eq=False)
class Seat:
    """A worker as the driver sees it: first starting (`ref` is its greeting), then idle, or busy with a call."""

    actor: Any
    node: str
    ref: Any
    since: float
    pid: int = 0
    call: Call | None = None
    ready: bool = False


@dataclass
class Node:
    """A machine of the cluster: how many workers it holds, and whether it may get more work."""

    room: int
    host: str
    draining: bool = False


@dataclass
class Tally:
    """What went wrong so far."""

    retries: int = 0
    died: int = 0
    starts_failed: int = 0
    last_start: str = ""
