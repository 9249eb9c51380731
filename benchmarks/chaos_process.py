"""A driver process seen from outside: what it has told, what it was doing when it was killed, and what it left behind."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gtl.population.processes import descendants, start_time

SCRIPT = Path(__file__).with_name("chaos_driver.py")
PHASES = {"-1": "finalists", "0": "generation 0 (founders)", "1": "generation 1 (search)"}
RAY_PROCESSES = {"worker": "ray::_Worker", "raylet": "raylet", "gcs": "gcs_server"}
HANGS = 300.0  # seconds after which a driver that neither ends nor gets to where it is to be killed counts as hung
PUBLISHED = "renamed learngene.safetensors"
Process = tuple[int, int]  # pid and start time: together they name a process for good


@dataclass(frozen=True)
class Event:
    """One line that a driver has told: when, what, and of what."""

    at: float
    what: str
    about: str


@dataclass(frozen=True)
class Blow:
    """How a driver is to be killed: so long after it began (or began to work), or right after a step on the disk."""

    seconds: float = 0.0
    from_work: bool = False
    step: str = ""
    count: int = 0

    @property
    def by_step(self) -> bool:
        return bool(self.step)


@dataclass(frozen=True)
class Fault:
    """What else is to die, in Ray mode: a worker, the raylet or the gcs, so long after the first work."""

    victim: str
    seconds: float


@dataclass
class Driver:
    """One driver process from start to end.

    Attributes:
        events: what it has told so far.
        killed: when it was killed; None while it lives, and if it ended by itself.
        processes: its descendants at the moment before it was killed, or before something of its Ray was.
        struck: what of its Ray was killed, if anything.
        before: descendants of drivers that were killed before, as far as they were alive then.
        before_at_begin: how many of those lived when this one had been loaded, and began.
    """

    run: Path
    told: Path
    workers: int = 1
    hold: tuple[int, str] = (0, "")
    events: list[Event] = field(default_factory=list)
    killed: float | None = None
    processes: tuple[Process, ...] = ()
    struck: str = ""
    before: tuple[Process, ...] = ()
    before_at_begin: int = 0
    code: int | None = None
    _read: int = 0

    def start(self) -> Driver:
        command = [sys.executable, str(SCRIPT), str(self.run), str(self.told), "--workers", str(self.workers)]
        if self.hold[1]:
            command += ["--hold", str(self.hold[0]), self.hold[1]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["RAY_TMPDIR"] = str(self.run.parents[1])  # Ray's logs go when the benchmark's folder goes
        with self.told.with_suffix(".err").open("wb") as errors:
            self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        return self

    def look(self) -> None:
        """Read what was told since the last look."""
        with suppress(FileNotFoundError), self.told.open("rb") as stream:
            stream.seek(self._read)
            whole = stream.read().rpartition(b"\n")[0]
            if whole:
                self._read += len(whole) + 1
                for line in whole.decode().split("\n"):
                    at, what, about = (line + "  ").split(" ", 2)
                    self.events.append(Event(float(at), what, about.strip()))

    def live(self, blow: Blow | None = None, fault: Fault | None = None, draw: random.Random | None = None) -> None:
        """Let it live until it ends, or until the blow is due.

        Raises:
            RuntimeError: it hangs.
        """
        try:
            self._live(blow, fault, draw)
        except BaseException:
            self._process.kill()
            raise

    def _live(self, blow: Blow | None, fault: Fault | None, draw: random.Random | None) -> None:
        began, since = time.monotonic(), (0.0, 0.0)
        while self._process.poll() is None:
            self.look()
            now = time.monotonic()
            if not since[0] and self.when_begun:
                self.before_at_begin = len(alive(self.before))
            since = (self.when_begun, self.when_at_work)
            if blow is not None and self._due(blow, since, now):
                self.kill()
                return
            if fault is not None and draw is not None and since[1] and now - since[1] > fault.seconds:
                self._strike(fault.victim, draw)
                fault = None
            if now - began > HANGS:
                self.kill()
                raise RuntimeError(f"hung for {HANGS:.0f} s in {self.phase}; {self.errors}")
            time.sleep(0.003)
        self.code = self._process.wait()
        self.look()

    def kill(self) -> None:
        """Signal 9, as nobody can be prepared for it."""
        self.processes = identified(descendants(self._process.pid))
        self._process.kill()
        self.killed = time.monotonic()
        self.code = self._process.wait()
        self.look()

    @property
    def too_late(self) -> bool:
        """Whether it ended, or at least had nothing left to do, before it could be killed."""
        return self.code != -signal.SIGKILL or self.ended

    @property
    def ended(self) -> bool:
        """Whether it said that the run is finished."""
        return any(event.what == "ended" for event in self.events)

    @property
    def errors(self) -> str:
        """The end of what it wrote to stderr."""
        return self.told.with_suffix(".err").read_text("utf-8", "replace")[-600:].strip()

    @property
    def when_begun(self) -> float:
        return next((event.at for event in self.events if event.what == "begun"), 0.0)

    @property
    def when_at_work(self) -> float:
        """When it began to train or evaluate; 0 if it has not."""
        return next((event.at for event in self.events if event.what == "asked" or _of_ancestor(event)), 0.0)

    @property
    def steps(self) -> list[str]:
        """Every step on the disk, in order."""
        return [event.about for event in self.events if event.what == "step"]

    @property
    def committed(self) -> int:
        """The newest generation that it said is committed; -1 before the first."""
        return max((int(event.about) for event in self.events if event.what == "generation"), default=-1)

    @property
    def trained(self) -> int:
        """The step of the ancestor's training that it said is saved."""
        return max(
            (int(n) for e in self.events if _of_ancestor(e) for n in re.findall(r": step (\d+) of", e.about)), default=0
        )

    @property
    def trains_from(self) -> int | None:
        """The step that it began the ancestor's training at; None if it did not train it."""
        first = next((event.about for event in self.events if _of_ancestor(event)), None)
        found = re.search(r"going on from step (\d+)", first or "")
        return None if first is None else int(found[1]) if found else 0

    @property
    def begun(self) -> list[str]:
        """Evaluations that really began, here or in a worker; one that is tried again is there twice."""
        return [event.about for event in self.events if event.what == "began"]

    @property
    def finished(self) -> set[str]:
        """Evaluations that it said are finished."""
        good = (event.about.split() for event in self.events if event.what == "finished")
        return {name for name, status in good if status in {"ok", "diverged"}}

    @property
    def phase(self) -> str:
        """What it was doing last."""
        phase, left = "start", 0
        for event in self.events:
            if _of_ancestor(event):
                phase = "ancestor"
            elif event.what == "asked":
                generation, left = event.about.split()[0], int(event.about.split()[1])
                phase = PHASES.get(generation, f"generation {generation} (lives)")
            elif event.what == "finished":
                left -= 1
                if left == 0:
                    phase = "learngene" if phase == "finalists" else phase.partition(" (")[0] + " (commit)"
            elif event.what == "generation":
                phase = "between generations"
            elif event.what == "step" and event.about == PUBLISHED:
                phase = "end"
        return phase

    @property
    def seconds_lost(self) -> float:
        """Between the last thing that it finished and its end: work that has to be done again."""
        done = [e.at for e in self.events if e.what in {"begun", "finished", "generation"} or _of_ancestor(e)]
        return max(0.0, self.killed - done[-1]) if done and self.killed and self.phase != "end" else 0.0

    def _due(self, blow: Blow, since: tuple[float, float], now: float) -> bool:
        if blow.by_step:
            return any(event.what == "held" for event in self.events)
        start = since[1] if blow.from_work else since[0]
        return bool(start) and now - start >= blow.seconds

    def _strike(self, victim: str, draw: random.Random) -> None:
        self.processes = identified(descendants(self._process.pid))
        found = [pid for pid, _ in self.processes if RAY_PROCESSES[victim] in name_of(pid)]
        if found:
            with suppress(OSError):
                os.kill(draw.choice(sorted(found)), signal.SIGKILL)
                self.struck = victim


def name_of(pid: int) -> str:
    """What a process runs, without folders: a program, or a script of Python's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    scripts = [word for word in words[1:] if word.endswith(".py")]
    return Path(scripts[0] if scripts else words[0]).name


def identified(pids: Iterable[int]) -> tuple[Process, ...]:
    """These processes by pid and start time."""
    found = ((pid, start_time(pid)) for pid in pids)
    return tuple((pid, at) for pid, at in found if at is not None)


def alive(processes: Collection[Process]) -> list[Process]:
    """Those that still live."""
    return [(pid, at) for pid, at in processes if start_time(pid) == at]


def kind(step: str) -> str:
    """A step on the disk without what tells one generation or blob from another."""
    step = re.sub(r"[0-9a-f]{64}", "BLOB", step)
    step = re.sub(r"gen-[0-9]{6}", "gen-N", step)
    step = step.replace("folder now", "folder above the run")
    return re.sub(r"folder [0-9a-f]{2}$", "folder of a blob", step)


def place(steps: Sequence[str], done: Collection[str]) -> int:
    """How far a run has come that did these, as a place among the undisturbed run's steps; -1 before the first."""
    done = set(done)
    return max((at for at, step in enumerate(steps) if step in done and steps.count(step) == 1), default=-1)


def remaining(steps: Sequence[str], done: Collection[str]) -> list[tuple[str, int]]:
    """Which (step, how often from now on) are still to come of a run that did these: by the undisturbed run's order.

    None after the learngene: kills in yet another start of a finished run say little.
    """
    if PUBLISHED in done:
        return []
    found, often = [], dict[str, int]()
    for step in steps[place(steps, done) + 1 :]:
        often[step] = often.get(step, 0) + 1
        found.append((step, often[step]))
    if done and found:  # every driver takes the lock, and tries the disk, before it goes on
        found += [(step, 1) for step in dict.fromkeys(steps) if step.endswith((" lock.json", " preflight"))]
    return found


def _of_ancestor(event: Event) -> bool:
    return event.what == "message" and event.about.startswith("ancestor")
