"""RUN/progress.json: what a driver is doing, for whoever looks at the run directory from elsewhere.

It is a sign of life, not truth: what is finished stands in the generation folders. Written whole (a reader never sees
half of it) but not forced to disk, and a disk that refuses it stops nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gtl.individual import Job, Outcome
from gtl.population.founding import Ancestor
from gtl.population.manager import FINAL, Manager
from gtl.population.observer import Observer, Observers, WorkerReport
from gtl.population.pace import Clock, Pace, last_generation
from gtl.population.processes import boot_id, start_time
from gtl.population.run import life_rate
from gtl.storage import temporary_name

__all__ = ["PROGRESS", "PROGRESS_FORMAT", "Observers", "ProgressFile", "machine", "read_progress"]

PROGRESS = "progress.json"
PROGRESS_FORMAT = "1.0"
OFTEN = 1.0  # seconds between two writings, while there is news
HEARTBEAT = 5.0  # seconds between two writings while there is none: a life may take hours, and its driver is alive


class ProgressFile(Observer):
    """Keeps ``progress.json`` of a run up to date: at once where a generation begins and ends, else once a second.

    The hooks only count; a thread of its own writes, so that neither ten thousand small jobs nor a slow disk hold the
    run up, and the file shows life while a single job takes hours. The thread ends with `finished`, `stopped`, or this
    object.

    Args:
        run: the run directory. Make this only while holding the run's lock: the file belongs to the one driver.
        clock: seconds, for the pace.
    """

    def __init__(self, run: Path, clock: Clock = time.monotonic) -> None:
        self.path = run / PROGRESS
        self._pace = Pace(clock)
        self._manager: Manager | None = None
        self._ancestor_images = self._images_before = 0
        self._state, self._message = "founding", ""
        self._report: WorkerReport | None = None
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._owner = {"pid": os.getpid(), "host": socket.gethostname(), **machine(), "since": start_time(os.getpid())}
        self._writing = threading.Lock()
        self._news = False
        self._over = threading.Event()
        self._writer: threading.Thread | None = None

    def message(self, text: str) -> None:
        """Keep the last one: while there is no population, it tells how far the ancestor is."""
        self._message = text
        self._tell(now=self._writer is None)

    def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
        """The loop begins."""
        self._manager, self._ancestor_images, self._images_before = manager, ancestor.images, manager.images
        self._pace.expect(life_rate(run))
        self._state, self._message = "finalists" if manager.done else "generation", ""
        self._tell(now=True)

    def asked(self, jobs: Sequence[Job]) -> None:
        """A generation begins."""
        self._images_before = 0 if self._manager is None else self._manager.images
        self._pace.asked(jobs)
        self._tell(now=True)

    def evaluated(self, outcome: Outcome) -> None:
        """Count it."""
        self._pace.evaluated(outcome)
        self._news = True

    def workers(self, report: WorkerReport) -> None:
        """Keep the last report."""
        self._report = report
        self._pace.workers(report)
        self._news = True

    def generation(self, manager: Manager) -> None:
        """A generation is committed."""
        self._pace.finish()
        self._images_before = manager.images
        self._state = "finalists" if manager.done else "generation"
        self._tell(now=True)

    def finished(self) -> None:
        """The last word."""
        self._end("finished", "")

    def stopped(self, reason: str) -> None:
        """The last word."""
        self._end("stopped", reason)

    def document(self) -> dict[str, Any]:
        """What the file says, as plain values."""
        pace, manager, report = self._pace, self._manager, self._report
        left = pace.left(manager) if manager is not None and self._state == "generation" else None
        generation = phase = None
        if manager is not None:
            generation = manager.generation if pace.jobs == 0 or pace.generation == FINAL else pace.generation
            phase = self._phase(manager, generation)
        return {
            "format": PROGRESS_FORMAT,
            **self._owner,
            "started": self._started,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": self._state,
            "message": self._message,
            "generation": generation,
            "last_generation": None if manager is None else last_generation(manager),
            "phase": phase,
            "jobs": pace.jobs,
            "done": pace.told,
            "failed": pace.failed if pace.jobs else 0,
            "pending": pace.jobs - pace.told,
            "running": None if report is None else report.busy,
            "best": pace.best if pace.jobs else None,
            "images_per_second": round(pace.images_per_second, 1),
            "seconds_left": None if left is None or left.seconds is None else round(left.seconds, 1),
            "seconds_left_bound": "" if left is None else left.bound,
            "images": self._ancestor_images + self._images_before + (pace.images if pace.jobs else 0),
            "workers": None if report is None else asdict(report),
        }

    @staticmethod
    def _phase(manager: Manager, generation: int) -> str:
        if generation <= 0:
            return "founding"
        return "search" if generation <= manager.config.evolution.search_generations else "lives"

    def _tell(self, *, now: bool) -> None:
        """News: written now, or soon."""
        if self._over.is_set():
            return
        self._news = True
        if self._writer is None:
            self._writer = threading.Thread(
                target=_keep_writing, args=(weakref.ref(self), self._over), name="gtl-progress", daemon=True
            )
            weakref.finalize(self, self._over.set)
            self._writer.start()
        if now:
            self._write()

    def _end(self, state: str, message: str) -> None:
        if self._over.is_set():
            return
        self._state, self._message = state, message
        if state == "finished":
            self._pace.finish()
        self._write()
        self._over.set()

    def _write(self) -> None:
        """The file, whole; no fsync, for it is no truth that must survive a power cut. Never raises for the disk."""
        with self._writing, suppress(OSError):
            if self._over.is_set():
                return
            self._news = False
            temporary = temporary_name(self.path)
            try:
                temporary.write_text(json.dumps(self.document(), indent=1, allow_nan=False) + "\n", "utf-8")
                os.replace(temporary, self.path)
            except OSError:
                temporary.unlink(missing_ok=True)


def machine() -> dict[str, str]:
    """Names where a pid means something: this boot of this machine, and in it this space of pids (of a container)."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return {"boot": boot_id(), "pid_space": space}


def read_progress(run: Path) -> dict[str, Any] | None:
    """What ``progress.json`` says; None if it is not there, damaged, or of a gtl with another major format."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((run / PROGRESS).read_text("utf-8"))
        if str(found.get("format")).split(".", maxsplit=1)[0] == PROGRESS_FORMAT.split(".", maxsplit=1)[0]:
            return dict(found)
    return None


def _keep_writing(file: weakref.ref[ProgressFile], over: threading.Event) -> None:
    """While the driver lives: write news every second, and without news a sign of life now and then."""
    last = time.monotonic()
    while not over.wait(OFTEN):
        progress = file()
        if progress is None:
            return
        if progress._news or time.monotonic() - last >= HEARTBEAT:
            with suppress(Exception):  # whatever goes wrong here is no reason to end a run
                progress._write()
            last = time.monotonic()
        del progress
