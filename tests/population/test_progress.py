"""What a driver leaves for those who watch from elsewhere: the progress file, the pace, and how both are read."""

from __future__ import annotations

import inspect
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
from run_files import create
from tiny_run import tiny

from gtl import engine
from gtl.config import Config
from gtl.config_file import changed_config
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.population import progress, standing
from gtl.population.founding import Ancestor
from gtl.population.lock import LEASE
from gtl.population.manager import Manager
from gtl.population.observer import Observer, Observers, WorkerReport
from gtl.population.pace import Left, Pace
from gtl.population.processes import start_time
from gtl.population.progress import PROGRESS, ProgressFile, machine, read_progress
from gtl.population.run import life_rate
from gtl.population.standing import Onlooker
from gtl.storage import publish

GENOTYPE = Genotype({"conv1": ChannelMask(4, [0])})
ANCESTOR = Ancestor("00", 1000, {}, {"scratch": 0.11})
REPORT = WorkerReport(7, 1, 6, 2, 1, 3, "worker on node-3 died; g0004-i0002 is tried again")


class Clock:
    """Seconds that pass when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeManager:
    """What the progress file reads of a manager."""

    def __init__(self, lives: int = 3, population: int = 8, generation: int = 0) -> None:
        section = {"population": population, "generations": lives, "search_generations": 0}
        self.config = Config.model_validate({"name": "x", "data": {"source": "glyphs"}, "evolution": section})
        self.generation, self.images = generation, 500

    @property
    def done(self) -> bool:
        return self.generation >= self.config.evolution.generations


def jobs_of(generation: int, count: int = 8, lives: bool = True) -> list[Job]:
    return [Job(f"g{generation:04d}-i{n:04d}", generation, GENOTYPE, (), lives, 0, 0, 1, 0) for n in range(count)]


def outcome(fitness: float = 0.5, seconds: float = 0.0, images: int = 100, status: Status = Status.OK) -> Outcome:
    return Outcome("g0001-i0000", "", Evaluation(status, fitness, images=images, seconds=seconds))


def as_manager(manager: FakeManager) -> Manager:
    return cast(Manager, manager)


def told(run: Path) -> dict[str, Any]:
    found = read_progress(run)
    assert found is not None
    return found


def until(happens: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.01)
    return happens()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ProgressFile]:
    """A progress file of a run in its first generation with lives."""
    made = ProgressFile(tmp_path)
    made.started(as_manager(FakeManager()), ANCESTOR, tmp_path)
    made.asked(jobs_of(1))
    yield made
    made.stopped("end of test")


def test_every_hook_reaches_every_observer() -> None:
    hooks = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction) if not name.startswith("_")}
    heard: list[tuple[int, str]] = []

    class Recorder(Observer):
        def __init__(self, number: int) -> None:
            self.number = number

        def __getattribute__(self, name: str) -> Any:
            if name in hooks:
                return lambda *_: heard.append((self.number, name))
            return super().__getattribute__(name)

    both = Observers(Recorder(1), Recorder(2))
    for hook in sorted(hooks):
        heard.clear()
        arguments = len(inspect.signature(getattr(Observer, hook)).parameters) - 1
        getattr(both, hook)(*[None] * arguments)
        assert heard == [(1, hook), (2, hook)], f"Observers does not pass {hook} on"
    assert hooks >= {"message", "started", "asked", "evaluated", "workers", "generation", "finished", "stopped"}


def test_a_real_run_tells_each_of_its_states(tmp_path: Path) -> None:
    run = tmp_path / "run"
    seen: list[dict[str, Any]] = []

    class Reader(Observer):
        def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
            seen.append(told(run))

        def evaluated(self, outcome: Outcome) -> None:
            seen.append(told(run))

        def generation(self, manager: Manager) -> None:
            seen.append(told(run))

    engine.evolve(tiny(), run, observer=Reader())
    last = told(run)
    assert [(row["state"], row["generation"]) for row in seen][:3] == [
        ("founding", None),
        ("generation", 0),
        ("generation", 0),
    ]
    assert [row["generation"] for row in seen if row["jobs"]] == sorted(
        row["generation"] for row in seen if row["jobs"]
    )
    assert {row["phase"] for row in seen} == {None, "founding", "search", "lives"}
    assert (last["state"], last["generation"], last["last_generation"], last["pid"]) == ("finished", 3, 3, os.getpid())
    now = Onlooker(run).look()
    assert last["images"] == json.loads((run / "ancestor.json").read_text())["images"] + now.logbook[-1]["images"] > 0
    assert now.finished and not list(run.glob("*.tmp.*"))


def test_a_run_that_is_given_up_says_why(tmp_path: Path) -> None:
    class Stop(Observer):
        def generation(self, manager: Manager) -> None:
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        engine.evolve(tiny(), tmp_path / "run", observer=Stop())
    now = Onlooker(tmp_path / "run").look()
    assert (told(now.run)["state"], told(now.run)["message"]) == ("stopped", "the power went")
    assert (now.driver.state, now.finished, now.lost) == ("none", False, True)


def test_document(file: ProgressFile, tmp_path: Path) -> None:
    assert told(tmp_path)["done"] == 0 and told(tmp_path)["pending"] == 8  # at once
    file.evaluated(outcome(0.4))
    file.evaluated(outcome(0.6))
    file.evaluated(outcome(0.0, status=Status.DIVERGED))
    file.workers(REPORT)
    found = file.document()
    assert (found["state"], found["generation"], found["last_generation"], found["phase"]) == (
        "generation",
        1,
        3,
        "lives",
    )
    assert (found["jobs"], found["done"], found["failed"], found["pending"], found["running"]) == (8, 3, 1, 5, 6)
    assert (found["best"], found["images"]) == (0.6, 1000 + 500 + 300)
    assert found["workers"] == asdict(REPORT)
    assert found["seconds_left"] is not None
    assert until(lambda: told(tmp_path)["done"] == 3)  # and what came last is not lost in the throttle
    json.dumps(found, allow_nan=False)


def test_writes_once_a_second_and_then_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (written.append(time.monotonic()), real(*names)))
    monkeypatch.setattr(progress, "OFTEN", 0.2)
    file = ProgressFile(tmp_path)
    file.started(as_manager(FakeManager(population=10_000)), ANCESTOR, tmp_path)
    file.asked(jobs_of(1, 10_000))
    began = time.perf_counter()
    for _ in range(10_000):
        file.evaluated(outcome())
    cost = (time.perf_counter() - began) / 10_000
    assert cost < 50e-6, f"{cost * 1e6:.1f} microseconds for each outcome"
    assert len(written) <= 2 + (time.monotonic() - written[0]) / 0.2
    file.finished()
    file.stopped("too late")
    file.message("too late")
    count = len(written)
    time.sleep(0.3)
    assert len(written) == count and told(tmp_path)["state"] == "finished"
    assert not [thread for thread in threading.enumerate() if thread.name == "gtl-progress" and thread.is_alive()]


def test_a_quiet_driver_still_gives_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "OFTEN", 0.02)
    monkeypatch.setattr(progress, "HEARTBEAT", 0.1)
    file = ProgressFile(tmp_path)
    file.message("ancestor: step 1 of 9")
    before = (tmp_path / PROGRESS).stat().st_mtime_ns
    assert until(lambda: (tmp_path / PROGRESS).stat().st_mtime_ns > before)
    assert (told(tmp_path)["state"], told(tmp_path)["message"]) == ("founding", "ancestor: step 1 of 9")
    del file
    assert until(lambda: all(thread.name != "gtl-progress" for thread in threading.enumerate()))


def test_a_disk_that_refuses_stops_nothing(file: ProgressFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = (tmp_path / PROGRESS).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        file.asked(jobs_of(2))
        file.evaluated(outcome())
        file.generation(as_manager(FakeManager(generation=2)))
    assert (tmp_path / PROGRESS).read_bytes() == before
    assert not list(tmp_path.glob("*.tmp.*"))
    file.asked(jobs_of(3))
    assert told(tmp_path)["generation"] == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "9.0"}', '{"format": null}', "\x00" * 9])
def test_a_progress_file_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_text(text)
    assert read_progress(tmp_path) is None


def lives(pace: Pace, clock: Clock, workers: int, generation: int, each: float = 10.0, jobs: int = 8) -> list[float]:
    """A generation of equal jobs over `workers`; the seconds left after each wave's first, second, ... arrival."""
    manager = FakeManager(lives=2, population=jobs, generation=generation - 1)
    pace.asked(jobs_of(generation, jobs))
    left = []
    for number in range(jobs):
        if number % workers == 0:
            clock.now += each
        pace.evaluated(outcome(seconds=each))
        left.append(pace.left(as_manager(manager)).seconds or 0.0)
    return left


def test_pace_of_several_workers() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.workers(WorkerReport(2, 0, 2, 0, 0, 1))
    first = lives(pace, clock, 2, 1)
    # 8 jobs of 10 s over 2 workers: 40 s a generation, of which two are planned; known from the first arrival on
    assert first == [70, 70, 60, 60, 50, 50, 40, 40]
    assert pace.images_per_second == pytest.approx(800 / 40)
    assert lives(pace, clock, 2, 2) == [30, 30, 20, 20, 10, 10, 0, 0]
    pace.workers(WorkerReport(4, 0, 4, 0, 0, 2))  # twice as many workers: half the time
    assert pace.left(as_manager(FakeManager(lives=4, generation=2))).seconds == pytest.approx(2 * 20)


def test_pace_sees_all_workers_at_the_first_arrival() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.workers(WorkerReport(8, 0, 8, 0, 0, 1))
    pace.asked(jobs_of(1, 64))
    clock.now += 10
    pace.evaluated(outcome(seconds=10.0))
    assert pace.images_per_second == pytest.approx(8 * 100 / 10)
    assert pace.left(as_manager(FakeManager(lives=1, population=64))).seconds == pytest.approx(70)


def test_pace_of_a_race_waits_for_a_winner() -> None:
    """Seven losers of a second each, and a winner that lives for a minute."""
    clock = Clock()
    pace = Pace(clock)
    manager = FakeManager(lives=2)
    manager.config = changed_config(manager.config, evolution={"racing": {"heats": (0.0,), "keep": 0.1}})
    left: list[float | None] = []
    for generation in (1, 2):
        pace.asked(jobs_of(generation))
        for _ in range(7):
            clock.now += 1
            pace.evaluated(outcome(seconds=1.0))
        left.append(pace.left(as_manager(manager)).seconds)
        clock.now += 60
        pace.evaluated(outcome(seconds=60.0))
        left.append(pace.left(as_manager(manager)).seconds)
        manager.generation = generation
    assert left == [None, pytest.approx(67), pytest.approx(60), 0.0]


def test_pace_of_lives_is_not_known_from_the_search() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.asked(jobs_of(0, lives=False))
    for _ in range(8):
        clock.now += 1
        pace.evaluated(outcome(seconds=1.0))
    assert pace.left(as_manager(FakeManager(lives=1))).text == "-"


def test_pace_foretells_lives_by_what_steps_took_before_the_run() -> None:
    clock = Clock()
    pace = Pace(clock)
    manager = FakeManager(lives=2)
    elite_of_two = {"tournament": {"size": 2, "elite": 2}}
    life = {"steps": 100, "training": {"batch_size": 32}}
    manager.config = changed_config(manager.config, evolution=elite_of_two, life=life)
    pace.expect(64.0)
    # 6 lives of 3,200 images at 64 images a second: 300 s a generation
    assert pace.left(as_manager(manager)).text == "~ 10:00"
    pace.asked(jobs_of(1))
    clock.now += 30
    assert pace.left(as_manager(manager)) == Left(570, "~")
    pace.workers(WorkerReport(2, 0, 2, 0, 0, 1))
    assert pace.left(as_manager(manager)) == Left(270, "~"), "two workers: 150 s a generation"
    pace.evaluated(outcome(seconds=30.0))
    assert pace.left(as_manager(manager)).bound == "", "a life is done"
    raced = changed_config(manager.config, evolution={"racing": {"heats": (0.1,), "keep": 0.5}})
    manager.config, again = raced, Pace(clock)
    again.expect(64.0)
    # 6 heats of 10 steps, 3 lives of 100
    assert again.left(as_manager(manager)).seconds == pytest.approx(2 * (6 * 10 + 3 * 100) * 32 / 64)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        (None, None),
        ("{", None),
        ("[]", None),
        ('{"chosen": {"precision": "float32"}, "candidates": 3}', None),
        (
            '{"chosen": {"precision": "float32"}, "candidates": [{"precision": "bfloat16", "images_per_second": 9}]}',
            None,
        ),
        ('{"chosen": {"precision": "float32"}, "candidates": [{"precision": "float32", "images_per_second": 9}]}', 9.0),
        (
            '{"chosen": {"precision": "float32"}, "candidates": [{"precision": "float32", "images_per_second": 0}]}',
            None,
        ),
        (
            '{"chosen": {"precision": "float32"}, "candidates": [{"precision": "float32", "images_per_second": NaN}]}',
            None,
        ),
    ],
)
def test_what_steps_took_is_read_or_not_known(text: str | None, rate: float | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "calibration.json").write_text(text)
    assert life_rate(tmp_path) == rate


def test_pace_does_not_count_what_was_done_by_a_killed_driver() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.asked(jobs_of(1))
    for _ in range(6):
        clock.now += 0.001
        pace.evaluated(outcome(seconds=10.0))
    assert pace.images_per_second == 0 and pace.left(as_manager(FakeManager(lives=1))).seconds is None
    clock.now += 10
    pace.evaluated(outcome(seconds=10.0))
    assert pace.images_per_second == pytest.approx(10, rel=0.01)
    assert pace.left(as_manager(FakeManager(lives=1))).seconds == pytest.approx(10, rel=0.01)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory before its first generation."""
    from gtl.config_file import config_hash, dump_config
    from gtl.population.store import RunStore

    config = tiny()
    RunStore.create(
        tmp_path / "run", config_text=dump_config(config), config_hash=config_hash(config), versions={"torch": "2"}
    )
    return tmp_path / "run"


def drive(run: Path, **changes: Any) -> None:
    """Lease and progress file of a driver: this process, unless `changes` say otherwise."""
    me = {"pid": os.getpid(), "host": socket.gethostname(), **machine(), "since": start_time(os.getpid()), **changes}
    publish(run / LEASE, json.dumps({name: me[name] for name in ("pid", "host", "boot")}).encode(), overwrite=True)
    publish(run / PROGRESS, json.dumps({"format": "1.0", "state": "founding", **me}).encode(), overwrite=True)


def test_drivers_of_this_machine_are_known_by_their_process(run: Path) -> None:
    assert Onlooker(run).look().driver.state == "none"
    drive(run)
    now = Onlooker(run).look()
    assert (now.driver.state, now.driver.pid, now.lost) == ("alive", os.getpid(), False)
    drive(run, since=1)  # the pid was given to another process
    assert (Onlooker(run).look().driver.state, Onlooker(run).look().lost) == ("gone", True)
    (run / PROGRESS).unlink()
    assert Onlooker(run).look().driver.state == "alive"  # all that a lease alone can tell
    publish(run / LEASE, json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}).encode(), overwrite=True)
    assert Onlooker(run).look().driver.state == "gone"


def test_drivers_elsewhere_are_heard_but_not_judged_by_their_clock(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "SILENCE", 0.2)
    drive(run, host="node-7", boot="another", since=1)
    eye = Onlooker(run)
    assert (eye.look().driver.state, eye.look().lost) == ("alive", False)
    behind = time.time() - 300
    for name in (LEASE, PROGRESS):
        os.utime(run / name, (behind, behind))  # as if its clock were five minutes slow
    now = Onlooker(run).look()
    assert (now.driver.state, now.lost) == ("silent", False) and 295 < (now.driver.sign or 0) < 330
    assert eye.look().driver.state == "alive"  # who looks on sees that something changed just now
    time.sleep(0.3)
    assert eye.look().lost
    long_ago = time.time() - 86400
    for name in (LEASE, PROGRESS):
        os.utime(run / name, (long_ago, long_ago))
    assert Onlooker(run).look().lost


def test_looking_again_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.evolve(tiny(), tmp_path / "run")
    eye = Onlooker(tmp_path / "run")
    first = eye.look()
    reads: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), real(path))[1])
    again = eye.look()
    assert again == first and again.finished and {path.name for path in reads} <= {LEASE}
    (tmp_path / "run" / "gen-000003" / "state.json").write_bytes(b"{}")
    damaged = eye.look()
    assert (damaged.generation, damaged.finished) == (2, False)  # as a resume would see it


def test_what_is_no_run_or_breaks_is_refused(tmp_path: Path) -> None:
    from gtl.errors import RunError

    with pytest.raises(RunError, match="not a run directory"):
        Onlooker(tmp_path)
    store = create(tmp_path / "run")
    eye = Onlooker(store.path)
    (store.path / "config.yaml").unlink()
    with pytest.raises(RunError, match=r"config\.yaml"):
        eye.look()
