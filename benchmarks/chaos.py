"""Are runs ever lost? Kill the driver at random moments, resume, kill again: every run must end with the same bytes.

python benchmarks/chaos.py [--kills 100] [--workers 1] [--seed 0] [--out RECORD.json]

An undisturbed run is the reference. Then runs are killed until so many kills have been delivered: some at a random time,
the others right after a random storage step (between two writes, fsyncs or renames). After each kill, and before the
resume, the newest generation must load. No evaluation that a killed driver called finished may be made again. Of each run
that has finished in the end, learngene and journal (without times) must be the reference's. With more than one worker
(Ray), workers, raylet and gcs are killed now and then, too, and what killed drivers leave behind is counted: before
the resume, after it, and in the end, when nothing may be left.

Ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from chaos_process import Blow, Driver, Fault, Process, alive, kind, name_of, place, remaining

from gtl.errors import GtlError
from gtl.lineage import read_rows
from gtl.machine import available_memory, cores
from gtl.population.run import LEARNGENE
from gtl.population.store import RunStore

BY_STEP = 0.6  # of the kills come right after a storage step: there are more kinds of steps than half of 100
AT_WORK = 0.75  # with Ray, of the kills at a random time: from the first work on, or most would hit the start of Ray
MARGIN = 1.3  # a resumed run is given so much of the time that the undisturbed one took from there,
LEAST = 0.4  # and at least this share of all its time: else kills near the end would all hit the resume's start
FAULTS = 0.5  # with Ray, of the drivers that something else of Ray dies under
GOES = 90.0  # seconds: without its gcs, the last process of a Ray gives up after 60
VICTIMS = ("worker",) * 4 + ("raylet", "gcs")


@dataclass(frozen=True)
class Kill:
    """One kill that hit: of which run, how, what was under way, and what it cost.

    Attributes:
        lost: evaluations that had begun and were not finished.
        processes: of Ray, alive when the driver was killed.
    """

    run: int
    phase: str
    step: str
    generation: int
    lost: int
    seconds_lost: float
    processes: int = 0


@dataclass
class History:
    """What all drivers of one run did, the killed ones included."""

    steps: list[str] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    committed: int = -1
    trained: int = 0
    refusals: int = 0
    left: tuple[Process, ...] = ()


class Chaos:
    """Kills, and keeps count.

    Args:
        folder: for the runs; empty.
        workers: one: in process; more: with Ray.
        by_step: share of kills that come right after a storage step.
        say: gets a line for each kill and each finished run.
    """

    def __init__(
        self, folder: Path, workers: int, seed: int, by_step: float = BY_STEP, say: Callable[[str], None] = print
    ) -> None:
        self.folder, self.workers, self.say, self._by_step = folder, workers, say, by_step
        self._draw = random.Random(seed)
        self._drivers = 0
        self.kills: list[Kill] = []
        self.problems: list[str] = []
        self.identical: list[bool] = []  # of each finished run
        self.counts = Counter[str]()
        self.struck = Counter[str]()
        self.own_ends: list[str] = []
        self.outliving = Counter[str]()  # names of Ray processes of killed drivers that a resume did not end
        self.strays: tuple[Process, ...] = ()  # these processes

    def measure(self) -> None:
        """The undisturbed run: the reference for bytes and journal, for durations and for the order of the steps."""
        driver = self._driver(self.folder / "now" / "run")
        driver.live()
        if driver.code != 0:
            raise RuntimeError(f"the undisturbed run ended with {driver.code}: {driver.errors}")
        self.reference = driver.run.parent.rename(self.folder / "reference") / "run"  # killed ones have its first name
        self.steps = driver.steps
        self._when = [event.at - driver.events[-1].at for event in driver.events if event.what == "step"]
        self.seconds = driver.events[-1].at - driver.when_begun
        self.seconds_at_work = driver.events[-1].at - driver.when_at_work
        self.evaluations = len(driver.finished)
        self.say(f"undisturbed: {self.seconds:.1f} s, {len(self.steps)} storage steps, {self.evaluations} evaluations")

    def kill(self, kills: int) -> None:
        """One run after the other, each killed until it has finished, until so many kills have hit."""
        while len(self.kills) < kills:
            self._one_run(kills)
        began = time.monotonic()
        while (left := alive(self.strays)) and time.monotonic() - began < GOES:
            time.sleep(0.5)
        if left:
            self.problems.append(f"{len(left)} Ray processes of killed drivers do not go away")

    def _one_run(self, kills: int) -> None:
        number, before = len(self.identical) + 1, len(self.kills)
        run, history = self.folder / "now" / "run", History()
        while True:
            blow = self._blow(history) if len(self.kills) < kills else None
            driver = self._driver(run, blow, history.left)
            driver.live(blow, self._fault() if blow is not None else None, self._draw)
            self._judge_resume(driver, history, number)
            if driver.too_late:
                if driver.ended:
                    break
                history.left += driver.processes
                if self._gives_up(driver, history, number):
                    break
                continue
            self._record(driver, history, number, blow)
        self.counts["too late"] += blow is not None
        wrong = differences(run, self.reference)
        self.problems += [f"run {number}: {problem}" for problem in wrong]
        self.identical.append(not wrong)
        self.say(f"run {number}: {'; '.join(wrong) or 'identical'} after {len(self.kills) - before} kills")
        if wrong:
            run.parent.rename(self.folder / f"differs-{number}")
        else:
            shutil.rmtree(run.parent)

    def _driver(self, run: Path, blow: Blow | None = None, before: tuple[Process, ...] = ()) -> Driver:
        run.parent.mkdir(parents=True, exist_ok=True)
        self._drivers += 1
        told = self.folder / f"driver-{self._drivers:04d}.events"
        return Driver(run, told, self.workers, (blow.count, blow.step) if blow else (0, ""), before=before).start()

    def _blow(self, history: History) -> Blow:
        """A random time of the undisturbed run's duration, or a random one of the rarest steps still to come."""
        ahead = remaining(self.steps, history.steps)
        if ahead and self._draw.random() < self._by_step:
            had = Counter(kind(kill.step) for kill in self.kills if kill.step)
            # Those of a run's first moments come but once. With Ray they cost most of the time, and are the same.
            rare = Counter(kind(step) for step in self.steps) if self.workers == 1 else Counter[str]()
            chosen = min(
                (had[of], rare[of], self._draw.random(), of) for of in sorted({kind(step) for step, _ in ahead})
            )[-1]
            step, count = self._draw.choice([(step, count) for step, count in ahead if kind(step) == chosen])
            return Blow(step=step, count=count)
        at_work = self.workers > 1 and self._draw.random() < AT_WORK
        whole = self.seconds_at_work if at_work else self.seconds
        here = place(self.steps, history.steps)
        if here >= 0:  # often too late towards the end: otherwise runs would hardly ever finish
            whole = min(whole, max(MARGIN * -self._when[here], LEAST * whole))
        return Blow(self._draw.uniform(0.0, whole), at_work)

    def _fault(self) -> Fault | None:
        if self.workers == 1 or self._draw.random() >= FAULTS:
            return None
        return Fault(self._draw.choice(VICTIMS), self._draw.uniform(0.0, 0.5 * self.seconds_at_work))

    def _judge_resume(self, driver: Driver, history: History, number: int) -> None:
        """Nothing finished is done again, and nothing of Ray is left of the driver before."""
        self.counts["evaluations"] += len(driver.begun)
        again = history.finished & set(driver.begun)
        self.counts["repeated though finished"] += len(again)
        if again:
            self.problems.append(f"run {number}: {len(again)} evaluations were finished, and were made again")
        if driver.trains_from is not None and driver.trains_from < history.trained:
            again = f"went on from step {driver.trains_from}, and {history.trained} were saved"
            self.problems.append(f"run {number}: the ancestor's training {again}")
        if driver.struck:
            self.struck[driver.struck] += 1
        self.counts["processes at the resume"] += driver.before_at_begin
        if driver.phase != "start":  # it has come so far that it must have ended what was left
            if left := alive(history.left):
                self.outliving.update(name_of(pid) for pid, _ in left)
                self.say(f"run {number}: {len(left)} Ray processes of killed drivers outlive the resume")
            self.strays += tuple(left)
            history.left = ()
        history.steps += driver.steps
        history.finished |= driver.finished
        history.committed = max(history.committed, driver.committed)
        history.trained = max(history.trained, driver.trained)

    def _gives_up(self, driver: Driver, history: History, number: int) -> bool:
        """Of a driver that ended by itself: it may, if we killed what it works with. Three without excuse: run lost."""
        said = f"exit {driver.code} after the {driver.struck or 'nothing'} was killed"
        self.own_ends.append(said)
        self.say(f"run {number}: {said}, in {driver.phase}; {driver.errors}")
        if driver.struck not in {"raylet", "gcs"}:
            history.refusals += 1
            self.problems.append(f"run {number}: {said}")  # a record names no paths
        return history.refusals == 3

    def _record(self, driver: Driver, history: History, number: int, blow: Blow | None) -> None:
        """Look at what a killed driver left, before anyone resumes it."""
        step = blow.step if blow else ""
        lost = len(set(driver.begun) - driver.finished)
        # With Ray each worker may have one running and one that the driver is just writing down; a dead worker's waits.
        if lost > (1 if self.workers == 1 else 2 * self.workers + bool(driver.struck)):
            self.problems.append(f"run {number}: {lost} evaluations were under way with {self.workers} workers")
        newest, problem = check(driver.run, history)
        if problem:
            self.problems.append(f"run {number}, killed in {driver.phase} {step}: {problem}")
        kill = Kill(number, driver.phase, step, newest, lost, driver.seconds_lost, len(driver.processes))
        self.kills.append(kill)
        self.counts["lost"] += lost
        if not (driver.run / "run.json").exists():  # then it is no run yet: as the message says, remove it
            shutil.rmtree(driver.run, ignore_errors=True)
            self.counts["nothing there"] += 1
            history.steps, history.finished = [], set()
        history.left += driver.processes
        how = f"after step {kind(step)!r}" if step else "at a random time"
        extra = f", {driver.struck} killed before" if driver.struck else ""
        self.say(
            f"kill {len(self.kills)}: run {number}, {kill.phase}, {how}{extra}; newest generation {newest}"
            f"{f': {problem}' if problem else ''}; lost {lost} evaluations, {kill.seconds_lost:.2f} s"
        )

    @property
    def kills_identical(self) -> int:
        """Kills whose run has ended with the reference's bytes."""
        return sum(self.identical[kill.run - 1] for kill in self.kills if kill.run <= len(self.identical))

    def summary(self) -> dict[str, Any]:
        """What came out, as a record."""
        hit, count = Counter(kind(kill.step) for kill in self.kills if kill.step), self.counts
        lost = [kill.seconds_lost for kill in self.kills]
        ray = {
            "killed_too": dict(sorted(self.struck.items())),
            "drivers_that_then_ended_by_themselves": dict(sorted(Counter(self.own_ends).items())),
            "processes_alive_at_the_kills": sum(kill.processes for kill in self.kills),
            "of_these_when_the_next_driver_began": count["processes at the resume"],
            "of_these_after_the_resume": dict(sorted(self.outliving.items())),
            "of_these_in_the_end": len(alive(self.strays)),
        }
        return {
            "kills": {
                "delivered": len(self.kills),
                "identical": self.kills_identical,
                "at_a_random_time": sum(not kill.step for kill in self.kills),
                "right_after_a_storage_step": sum(bool(kill.step) for kill in self.kills),
                "too_late_and_not_counted": count["too late"],
                "under_way": dict(sorted(Counter(kill.phase for kill in self.kills).items())),
                "after_steps": dict(sorted(hit.items())),
                "kinds_of_steps_never_hit": sorted({kind(step) for step in self.steps} - set(hit)),
            },
            "runs": {
                "finished": len(self.identical),
                "identical": sum(self.identical),
                "kills_of_each": [sum(k.run == n for k in self.kills) for n in range(1, len(self.identical) + 1)],
                "begun_again_since_nothing_was_there_yet": count["nothing there"],
            },
            "evaluations": {
                "of_a_run": self.evaluations,
                "begun_in_all_runs": count["evaluations"],
                "repeated_though_finished": count["repeated though finished"],
                "lost_under_way": count["lost"],
                "most_lost_by_one_kill": max((kill.lost for kill in self.kills), default=0),
            },
            "seconds_lost_by_a_kill": {
                "median": round(statistics.median(lost), 3) if lost else None,
                "maximum": round(max(lost), 3) if lost else None,
            },
            "undisturbed_run": {
                "seconds": round(self.seconds, 2),
                "seconds_at_work": round(self.seconds_at_work, 2),
                "storage_steps": len(self.steps),
                "kinds_of_steps": len({kind(step) for step in self.steps}),
                "learngene_sha256": hashlib.sha256((self.reference / LEARNGENE).read_bytes()).hexdigest(),
                "journal_rows": len(journal(self.reference)),
            },
            **({"ray": ray} if self.workers > 1 else {}),
            "problems": self.problems,
        }


def check(run: Path, history: History) -> tuple[int, str]:
    """The newest generation that loads, read without the lock, and what is wrong with that ("": nothing)."""
    if not (run / "run.json").exists():
        return -1, "run.json is gone" if history.committed >= 0 or history.finished else ""
    try:
        latest = RunStore.open(run).latest()
    except GtlError as error:
        return -1, f"the newest generation does not load: {error}"
    newest = -1 if latest is None else latest[0]
    visible = max((int(path.name.removeprefix("gen-")) for path in run.glob("gen-??????")), default=-1)
    if newest < history.committed:
        return newest, f"generation {history.committed} was committed, and {newest} is the newest that loads"
    return newest, "" if newest == visible else f"generation {visible} is visible and not whole"


def differences(run: Path, reference: Path) -> list[str]:
    """What is not as it would be had nobody killed anything."""
    if not (run / LEARNGENE).exists():
        return ["the run is lost: there is no learngene"]
    found = []
    if (run / LEARNGENE).read_bytes() != (reference / LEARNGENE).read_bytes():
        found.append("the learngene differs")
    if journal(run) != journal(reference):
        found.append("the journal differs")
    if left := sorted(path.name for path in run.rglob("*.tmp.*")):
        found.append(f"unfinished files are left: {left}")
    if missing := {path.name for path in reference.iterdir()} ^ {path.name for path in run.iterdir()}:
        found.append(f"files of one and not of the other: {sorted(missing)}")
    return found


def journal(run: Path) -> list[dict[str, Any]]:
    """Its rows without measured times."""
    return [{key: value for key, value in row.items() if key != "time"} for row in read_rows(run / "lineage.jsonl")]


def main() -> int:
    """Status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1, help="1: in process; more: with Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the record goes")
    given = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(folder, given.workers, given.seed, say=lambda text: print(text, flush=True))
    chaos.measure()
    chaos.kill(given.kills)
    record = {
        "command": f"python benchmarks/chaos.py --kills {given.kills} --workers {given.workers} --seed {given.seed}",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("gtl", "torch", "ray", "deap")}},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": cores(),
            "free_memory_gib": available_memory() >> 30,
            "shared_with_other_work": True,
        },
        "seed": given.seed,
        "workers": given.workers,
        "minutes": round((time.monotonic() - began) / 60, 1),
        **chaos.summary(),
    }
    if given.out is not None:
        given.out.write_text(json.dumps(record, indent=2) + "\n")
    for problem in chaos.problems:
        print(problem, file=sys.stderr)
    kills, evaluations, lost = record["kills"], record["evaluations"], record["seconds_lost_by_a_kill"]
    print(
        f"{kills['identical']}/{kills['delivered']} identical, in {len(chaos.identical)} runs; "
        f"evaluations repeated though finished: {evaluations['repeated_though_finished']}; "
        f"lost by a kill: {lost['median']} s (median), {lost['maximum']} s (most)"
    )
    if chaos.problems:
        print(f"see {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
