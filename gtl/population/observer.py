"""What a run tells whoever watches it. The base class is silent; the command line's live table overrides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gtl.individual import Job, Outcome

if TYPE_CHECKING:  # a worker process imports this module too, and may have no use for torch
    from gtl.population.founding import Ancestor
    from gtl.population.manager import Manager


@dataclass(frozen=True)
class WorkerReport:
    """How the workers of a run stand.

    Attributes:
        ready: workers that take jobs, the busy ones included.
        starting: workers that are being started, in place of lost ones too.
        busy: workers that have a job now.
        retries: jobs that were given out again, since the driver began.
        lost: workers that died, since the driver began.
        nodes: machines with a ready worker.
        note: the last event worth a line, such as "worker on node-3 died; g0004-i0002 is tried again".
    """

    ready: int
    starting: int
    busy: int
    retries: int
    lost: int
    nodes: int
    note: str = ""


class Observer:
    """Silent. Override what you want to see; nothing here changes the run."""

    def message(self, text: str) -> None:
        """Something worth a line, outside the generations."""

    def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
        """The founders are ready; the loop begins or goes on."""

    def asked(self, jobs: Sequence[Job]) -> None:
        """A generation begins with these jobs."""

    def evaluated(self, outcome: Outcome) -> None:
        """One of them is done."""

    def workers(self, report: WorkerReport) -> None:
        """Workers came, went, or were given other jobs. In-process runs have none and say nothing."""

    def generation(self, manager: Manager) -> None:
        """The generation is committed."""

    def finished(self) -> None:
        """The learngene is published."""

    def stopped(self, reason: str) -> None:
        """The driver gives the run up, for whatever reason. Everything committed is intact."""


class Observers(Observer):
    """Tells several observers everything, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def message(self, text: str) -> None:
        """To all."""
        for observer in self.observers:
            observer.message(text)

    def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
        """To all."""
        for observer in self.observers:
            observer.started(manager, ancestor, run)

    def asked(self, jobs: Sequence[Job]) -> None:
        """To all."""
        for observer in self.observers:
            observer.asked(jobs)

    def evaluated(self, outcome: Outcome) -> None:
        """To all."""
        for observer in self.observers:
            observer.evaluated(outcome)

    def workers(self, report: WorkerReport) -> None:
        """To all."""
        for observer in self.observers:
            observer.workers(report)

    def generation(self, manager: Manager) -> None:
        """To all."""
        for observer in self.observers:
            observer.generation(manager)

    def finished(self) -> None:
        """To all."""
        for observer in self.observers:
            observer.finished()

    def stopped(self, reason: str) -> None:
        """To all."""
        for observer in self.observers:
            observer.stopped(reason)
