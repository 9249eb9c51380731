"""Where a run stands, read from its directory alone, without its lock and while its driver writes."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gtl.config import Config
from gtl.errors import RunError, StorageError
from gtl.learngene.artifact import Learngene
from gtl.population.founding import RECORD
from gtl.population.lock import LEASE
from gtl.population.manifest import DamagedError, read_listed, read_manifest
from gtl.population.processes import start_time
from gtl.population.progress import PROGRESS, machine, read_progress
from gtl.population.run import EXTENSION, LEARNGENE, extended, read_config, read_record
from gtl.population.store import CONFIG, LINEAGE, STATE, RunStore

FRESH = 30.0  # seconds; a driver elsewhere gives a sign of life every few, and network disks delay it by some
SILENCE = (
    120.0  # seconds without a sign of life, counted by our own clock, after which a driver elsewhere counts as lost
)
SKEW = 600.0  # seconds by which the clocks of two machines hardly differ
FAILURES = 5  # kinds of failures that are told, the newest first
ATTEMPTS, PAUSE = 5, 0.1  # a look may meet files that are just being replaced
_GENERATION = re.compile(r"gen-([0-9]{6,})")


@dataclass(frozen=True)
class Driver:
    """Who drives a run.

    Attributes:
        state: ``alive``; ``silent`` (on another machine, and no sign of life for some time); ``gone`` (it did not end in
            order: its process is no more); ``none`` (nobody holds the run).
        pid, host: its process; None where there is none.
        sign: seconds since its last sign of life, by this machine's clock; None where there is none.
    """

    state: Literal["alive", "silent", "gone", "none"]
    pid: int | None = None
    host: str | None = None
    sign: float | None = None


@dataclass(frozen=True)
class Failure:
    """Individuals of one generation that failed in the same way."""

    generation: int
    status: str
    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        run: its directory.
        name: of its configuration.
        finished: its learngene is published, and no extension is under way.
        generation: last whole one; None before the first.
        generations: number of the last one planned.
        ancestor_step: how far the ancestor's training was saved, while it is under way.
        reference: critic accuracy of whole networks.
        logbook: one record a generation; `alive` added.
        failures: of the newest generations that had any.
        learngene: the file, if there is one.
        driver: who drives it.
        progress: what the driver last said of itself, see `gtl.population.progress`; None if nothing.
        lost: whether nobody seems to drive it, though it is not finished.
    """

    run: Path
    name: str
    finished: bool
    generation: int | None
    generations: int
    ancestor_step: int | None
    reference: Mapping[str, float]
    logbook: tuple[dict[str, Any], ...]
    failures: tuple[Failure, ...]
    learngene: Path | None
    driver: Driver
    progress: Mapping[str, Any] | None
    lost: bool

    @property
    def state(self) -> str:
        """In a few words: ``founding``, ``generation 3 of 8``, ``finished``."""
        if self.finished:
            return "finished"
        if self.generation is not None:
            return f"generation {self.generation} of {self.generations}"
        return "founding" if self.ancestor_step is None else f"founding, ancestor at step {self.ancestor_step}"

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "name": self.name,
            "run": str(self.run),
            "state": self.state,
            "finished": self.finished,
            "generation": self.generation,
            "generations": self.generations,
            "alive": self.logbook[-1]["alive"] if self.logbook else None,
            "reference": dict(self.reference),
            "learngene": None if self.learngene is None else str(self.learngene),
            "driver": asdict(self.driver),
            "progress": None if self.progress is None else dict(self.progress),
            "failures": [asdict(failure) for failure in self.failures],
            "logbook": list(self.logbook),
        }


class Onlooker:
    """Looks at a run again and again; reads again only what has changed, and no gene but a new learngene.

    Raises:
        RunError: not a run directory.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._hash = RunStore.open(run).info["config_hash"]
        self._kept: dict[str, tuple[Any, Any]] = {}  # what was read -> (file's stamp, content)
        self._failures: dict[int, list[Failure]] = {}
        self._heard: tuple[list[int], float, bool] | None = (
            None  # times of files, when we saw them, whether they changed
        )

    def look(self) -> Standing:
        """Where it stands now. Files that are replaced meanwhile are tried again quietly.

        Raises:
            RunError: the run can no longer be read, or has no whole generation left.
            LearngeneError: the learngene is damaged.
        """
        for _ in range(ATTEMPTS - 1):
            with suppress(RunError, StorageError, OSError, ValueError, KeyError):
                return self._look()
            time.sleep(PAUSE)
        try:
            return self._look()
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{self.run} cannot be read any more ({error}); was it moved or changed?") from error

    def _look(self) -> Standing:
        progress = read_progress(self.run)  # before the generations: they are never older than it says
        driver, lost = self._driver(progress)
        config = self._config()
        generation, logbook = self._newest()
        record = read_record(self.run / RECORD)
        provenance = self._once(LEARNGENE, lambda path: dict(Learngene.load(path).provenance))
        finished = provenance is not None and provenance["generations"] == generation
        if finished and progress is not None and progress.get("state") != "finished":
            # its gene may be the one from before an extension; but if only the last word is missing, it is done
            finished = progress.get("state") == "finalists" and driver.state in {"gone", "none"}
        return Standing(
            run=self.run,
            name=config.name,
            finished=finished,
            generation=generation,
            generations=config.evolution.search_generations + config.evolution.generations,
            ancestor_step=record.get("step"),
            reference=record.get("reference", {}),
            logbook=logbook,
            failures=self._newest_failures(logbook),
            learngene=None if provenance is None else self.run / LEARNGENE,
            driver=driver,
            progress=progress,
            lost=lost and not finished,
        )

    def _config(self) -> Config:
        found = self._once(EXTENSION, lambda _: extended(read_config(self.run), self.run, None))
        own: Config | None = found or self._once(CONFIG, lambda _: read_config(self.run))
        return own or read_config(self.run)  # which says why there is none

    def _newest(self) -> tuple[int | None, tuple[dict[str, Any], ...]]:
        """Number and logbook of the newest generation that its manifest confirms; the genes are not read."""
        found = ((_GENERATION.fullmatch(path.name), path) for path in self.run.iterdir())
        folders = sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
        for generation, folder in folders:
            with suppress(DamagedError):
                return generation, self._once(f"{folder.name}/{STATE}", lambda _, at=folder: self._logbook(at))
        if folders:
            raise RunError(
                f"{self.run} has no whole generation left. Start a new run with the same configuration: it repeats this one."
            )
        return None, ()

    def _logbook(self, folder: Path) -> tuple[dict[str, Any], ...]:
        for stale in [name for name in self._kept if name.endswith(STATE)]:
            del self._kept[stale]
        manifest = read_manifest(folder)
        if manifest["config_hash"] != self._hash:
            raise DamagedError("its manifest belongs to another config")
        logbook = json.loads(read_listed(manifest, folder, STATE))["logbook"]
        return tuple({**row, "alive": row["individuals"] - row["failed"]} for row in logbook)

    def _newest_failures(self, logbook: tuple[dict[str, Any], ...]) -> tuple[Failure, ...]:
        told: list[Failure] = []
        for row in reversed(logbook):
            if row["failed"] and len(told) < FAILURES:
                generation = row["generation"]
                if generation not in self._failures:
                    self._failures[generation] = _failures(self.run / f"gen-{generation:06d}" / LINEAGE, generation)
                told += self._failures[generation]
        return tuple(told[:FAILURES])

    def _driver(self, progress: Mapping[str, Any] | None) -> tuple[Driver, bool]:
        """Who drives the run, and whether it has to be given up as lost."""
        try:
            lease = json.loads((self.run / LEASE).read_bytes())
            pid, host = int(lease["pid"]), str(lease["host"])
            sign = self._sign()
        except FileNotFoundError:  # who lets go of a run removes it
            return Driver("none"), True
        own = progress if progress is not None and (progress.get("pid"), progress.get("host")) == (pid, host) else None
        place = machine()
        if own is not None and place["boot"]:
            here = all(own.get(key) == value for key, value in place.items())
            alive = here and own.get("since") == start_time(pid)  # another start time: the pid was given to another
        else:
            here = host == socket.gethostname() and lease.get("boot", place["boot"]) == place["boot"]
            alive = here and _is_process(pid)
        if here:
            return Driver("alive" if alive else "gone", pid, host, sign), not alive
        return Driver("alive" if sign < FRESH else "silent", pid, host, sign), self._out_of_hearing(sign)

    def _sign(self) -> float:
        """Seconds since the lease or the progress file changed: by our own clock if we saw it, else by their times."""
        times = [(self.run / LEASE).stat().st_mtime_ns]
        with suppress(FileNotFoundError):
            times.append((self.run / PROGRESS).stat().st_mtime_ns)
        now = time.monotonic()
        if self._heard is None or self._heard[0] != times:
            self._heard = (times, now, self._heard is not None)
        return now - self._heard[1] if self._heard[2] else max(0.0, time.time() - max(times) / 1e9)

    def _out_of_hearing(self, sign: float) -> bool:
        """Whether a driver elsewhere has been silent for too long, however its clock goes."""
        if sign > SKEW:
            return True
        return self._heard is not None and time.monotonic() - self._heard[1] > SILENCE

    def _once(self, name: str, read: Any) -> Any:
        """What `read` makes of a file of the run, made again only when the file is another; None if there is none."""
        try:
            stamp = _stamp(self.run / name)
        except FileNotFoundError:
            self._kept.pop(name, None)
            return None
        if name not in self._kept or self._kept[name][0] != stamp:
            self._kept[name] = (stamp, read(self.run / name))
        return self._kept[name][1]


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes whenever a file is replaced."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _failures(path: Path, generation: int) -> list[Failure]:
    """Failures in a generation's rows, those of the same kind together."""
    kinds: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            if line.startswith(b'{"event":"evaluation"'):  # births, with their genotypes, are long
                row = json.loads(line)
                if row["status"] != "ok":
                    kind = (row["status"], " ".join(row["reason"].split()))
                    kinds[kind] += 1
                    examples.setdefault(kind, row["id"])
    return [
        Failure(generation, status, reason, count, examples[status, reason])
        for (status, reason), count in kinds.most_common()
    ]


def _is_process(pid: int) -> bool:
    if start_time(pid) is not None:
        return True
    if Path("/proc/self/stat").exists():  # then this system has told: there is none, or only its remains
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
