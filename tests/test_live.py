"""What a running evolution shows: a table on a terminal, one plain line a generation elsewhere."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from gtl.cli import live
from gtl.cli.demo import now_and_then
from gtl.cli.live import LiveObserver, PlainObserver, Watcher, observer_for, watching
from gtl.config import Config
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.population.founding import Ancestor
from gtl.population.manager import Manager
from gtl.population.observer import WorkerReport
from gtl.population.pace import Pace, clock_text

ANCESTOR = Ancestor("00", 1000, {}, {"scratch": 0.11, "pretrained": 0.92})
RUN = Path("no-such-folder/runs/001")  # a real one beside the checkout would lend its calibration
GENOTYPE = Genotype({"conv1": ChannelMask(4, [0])})
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeManager:
    """What observers read of a manager."""

    def __init__(self, search: int = 2, lives: int = 3, population: int = 4, **evolution: Any) -> None:
        section = {"population": population, "generations": lives, "search_generations": search, **evolution}
        self.config = Config.model_validate({"name": "x", "data": {"source": "glyphs"}, "evolution": section})
        self.generation, self.logbook = -1, cast(list[dict[str, Any]], [])

    @property
    def done(self) -> bool:
        evolution = self.config.evolution
        return self.generation >= evolution.search_generations + evolution.generations


def make_job(generation: int, number: int, lives: bool) -> Job:
    return Job(f"g{generation:04d}-i{number:04d}", generation, GENOTYPE, (), lives, 0, 0, 1, 0)


def live_one(manager: FakeManager, observer: Watcher, clock: Clock, seconds: float, failing: bool = False) -> None:
    """One generation: four jobs of `seconds` each."""
    generation = manager.generation + 1
    lives = generation > manager.config.evolution.search_generations
    jobs = [make_job(generation, number, lives) for number in range(4)]
    observer.asked(jobs)
    for number, job in enumerate(jobs):
        clock.now += seconds
        evaluation = Evaluation(Status.OK, 0.5 + 0.1 * number, images=1000 * lives)
        if failing and number == 0:
            evaluation = Evaluation(Status.DIVERGED, reason="loss nan")
        observer.evaluated(Outcome(job.individual, "", evaluation))
    phase = "founding" if generation == 0 else "lives" if lives else "search"
    fitness = {"mean": 0.65, "min": 0.5, "max": 0.8}
    record = {"generation": generation, "phase": phase, "fitness": fitness, "best_share": 0.146, "failed": int(failing)}
    manager.logbook.append(record)
    manager.generation = generation
    observer.generation(cast(Manager, manager))


def watch(observer: Watcher, clock: Clock, manager: FakeManager, seconds: float = 2.0) -> None:
    observer.started(cast(Manager, manager), ANCESTOR, RUN)
    while not manager.done:
        live_one(manager, observer, clock, seconds)


def plain() -> tuple[io.StringIO, Console]:
    stream = io.StringIO()
    return stream, Console(file=stream, width=40)  # narrower than a line: plain lines never wrap


def terminal(height: int = 30) -> tuple[io.StringIO, Console]:
    stream = io.StringIO()
    return stream, Console(file=stream, width=90, height=height, force_terminal=True, _environ={"TERM": "xterm"})


def test_plain_is_one_line_a_generation_and_a_heading() -> None:
    stream, console = plain()
    clock, manager = Clock(), FakeManager()
    with PlainObserver(console, clock) as observer:
        watch(observer, clock, manager)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 6
    assert lines[0].split() == ["gen", "phase", "best", "mean", "worst", "gene", "failed", "images/s", "left"]
    assert lines[1].split() == ["0", "founding", "80.0%", "65.0%", "50.0%", "14.6%", "0", "-", ">", "0:16"]
    assert lines[4].split() == ["3", "lives", "80.0%", "65.0%", "50.0%", "14.6%", "0", "500", "0:16"]
    assert lines[6].split()[-1] == "0:00"
    assert "\x1b" not in stream.getvalue()
    assert len({line.index("%") for line in lines[1:]}) == 1  # columns stand under each other


def test_plain_thins_out_the_ancestor_but_never_warnings() -> None:
    stream, console = plain()
    observer = PlainObserver(console)
    observer.message("warning: torch 1 is now\ntorch 2")
    for step in range(1000):
        observer.message(f"ancestor: step {step} of 1000")
    observer.message("warning: again")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "warning: torch 1 is now torch 2" and lines[-1] == "warning: again"
    assert len(lines) == 2 + 10 and lines[1] == "ancestor: step 0 of 1000"


def test_plain_breaks_long_silences_ever_more_rarely() -> None:
    stream, console = plain()
    clock, manager = Clock(), FakeManager()
    observer = PlainObserver(console, clock)
    observer.started(cast(Manager, manager), ANCESTOR, RUN)
    for _ in range(3):
        live_one(manager, observer, clock, 2.0)
    jobs = [make_job(3, number, True) for number in range(4)]
    observer.asked(jobs)
    before, said = len(stream.getvalue().splitlines()), list[int]()
    for minute in range(1, 61):
        clock.now += 60
        observer.break_silence()
        if len(stream.getvalue().splitlines()) > before + len(said):
            said.append(minute)
    assert said == [5, 15, 35]
    assert stream.getvalue().splitlines()[-1].strip() == "generation 3 of 5: 0 of 4 judged, left -"
    observer.evaluated(Outcome(jobs[0].individual, "", Evaluation(Status.OK, 0.5, images=1000, seconds=3600)))
    clock.now += 60
    observer.message("another matter")
    for minutes, lines in ((4, 0), (1, 1)):  # that was no silence
        clock.now += 60 * minutes
        before = len(stream.getvalue().splitlines())
        observer.break_silence()
        assert len(stream.getvalue().splitlines()) == before + lines
    assert "generation 3 of 5: 1 of 4 judged, left " in stream.getvalue()


def test_plain_looks_at_the_clock_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "GLANCE", 0.01)
    stream, console = plain()
    clock, manager = Clock(), FakeManager()
    with PlainObserver(console, clock) as observer:
        observer.started(cast(Manager, manager), ANCESTOR, RUN)
        observer.asked([make_job(0, number, False) for number in range(4)])
        clock.now += live.SILENCE
        deadline = time.monotonic() + 30
        while "generation 0 of 5: 0 of 4 judged" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stream.getvalue().count("judged") == 1
    clock.now += 10 * live.SILENCE
    time.sleep(0.05)
    assert stream.getvalue().count("judged") == 1  # nobody looks any more


def test_text_is_not_markup() -> None:
    for stream, console in (plain(), terminal()):
        (PlainObserver if not console.is_terminal else LiveObserver)(console).message("[bold]x[/nonsense] $y")
        assert "[bold]x[/nonsense] $y" in stream.getvalue()


def test_live_shows_table_bar_and_references() -> None:
    stream, console = terminal()
    clock, manager = Clock(), FakeManager()
    with LiveObserver(console, clock) as observer:
        observer.message("ancestor: step 3 of 9")
        observer._live.refresh()
        assert "ancestor: step 3 of 9" in stream.getvalue()
        observer.started(cast(Manager, manager), ANCESTOR, RUN)
        for _ in range(4):
            live_one(manager, observer, clock, 2.0, failing=True)
        observer.asked([make_job(4, number, True) for number in range(4)])
        clock.now += 2
        observer.evaluated(Outcome("g0004-i0000", "", Evaluation(Status.OK, 0.77)))
        stream.truncate(0)
        observer._live.refresh()
        shown = stream.getvalue()
        for wanted in (
            "runs/001",
            "3  lives     80.0%  65.0%  50.0%  14.6%       1       375",
            "generation 4 of 5  1/4, best so far 77.0%",
            "left 0:14",
            "random weights 11.0%, ancestor 92.0%",
            "g0003-i0000 diverged: loss nan",
        ):
            assert wanted in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown), wanted
    assert "generation 4 of 5" not in stream.getvalue().split(SHOW)[-1]


def test_only_a_terminal_shows_what_happened_to_workers() -> None:
    report = WorkerReport(7, 1, 6, 2, 1, 3, "worker on node-3 died; g0004-i0002 is tried again")
    clock, manager = Clock(), FakeManager()
    stream, console = plain()
    with PlainObserver(console, clock) as observer:
        watch(observer, clock, manager)
        before = stream.getvalue()
        observer.workers(report)
    assert stream.getvalue() == before and observer.pace.left(cast(Manager, manager)).seconds == 0
    stream, console = terminal()
    with LiveObserver(console, clock) as observer:
        observer.workers(report)
        observer._live.refresh()
        assert report.note in stream.getvalue()
        observer.evaluated(Outcome("g0004-i0007", "", Evaluation(Status.DIVERGED, reason="loss nan")))
        observer.workers(report)  # the same news again
        stream.truncate(0)
        observer._live.refresh()
        assert "loss nan" in stream.getvalue() and report.note not in stream.getvalue()


def test_live_fits_a_low_terminal_and_shows_a_resumed_run() -> None:
    stream, console = terminal(height=14)
    clock, manager = Clock(), FakeManager(search=0, lives=50)
    with PlainObserver(plain()[1], clock) as before:
        for _ in range(30):
            live_one(manager, before, clock, 1.0)
    with LiveObserver(console, clock) as observer:
        observer.started(cast(Manager, manager), ANCESTOR, Path("r"))
        live_one(manager, observer, clock, 1.0)
        stream.truncate(0)
        observer._live.refresh()
        shown = stream.getvalue()
    assert "27 more" in shown and "30  lives" in shown and "26  lives" not in shown
    assert len(shown.splitlines()) <= 14


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_put_right_when_something_passes(error: type[BaseException]) -> None:
    stream, console = terminal()
    clock, manager = Clock(), FakeManager()
    with pytest.raises(error), LiveObserver(console, clock) as observer:
        observer.started(cast(Manager, manager), ANCESTOR, Path("r"))
        observer.asked([make_job(0, 0, False)])
        raise error
    assert stream.getvalue().count(HIDE) == stream.getvalue().count(SHOW) == 1
    assert stream.getvalue().rindex(SHOW) > stream.getvalue().rindex(HIDE)
    assert not observer._live.is_started


def test_time_left() -> None:
    clock, manager = Clock(), FakeManager(search=2, lives=3)
    pace, quiet = Pace(clock), Watcher(plain()[1], clock)
    quiet.pace = pace
    known = cast(Manager, manager)
    assert pace.left(known).text == "-"
    live_one(manager, quiet, clock, 1.0)
    assert pace.left(known).text == "> 0:08"  # two search generations of 4 jobs; lives not timed yet
    for _ in range(3):
        live_one(manager, quiet, clock, 10.0)
    assert pace.left(known).text == "1:20"
    pace.asked([make_job(4, number, True) for number in range(4)])
    clock.now += 10
    pace.evaluated(Outcome("g0004-i0000", "", Evaluation(Status.OK, 0.1)))
    assert pace.left(known).text == "1:10"
    patient = FakeManager(search=0, lives=9, patience=2)
    patient.generation = 5
    assert pace.left(cast(Manager, patient)).text.startswith("< ")
    manager.generation = 5
    assert Pace(clock).left(known).text == "0:00"
    assert [clock_text(seconds) for seconds in (0.4, 59.6, 3600 * 3 + 420)] == ["0:00", "1:00", "3:07:00"]


def test_elite_that_meets_no_new_tasks_needs_no_time() -> None:
    clock, manager = Clock(), FakeManager(search=0, lives=1, population=10, tournament={"elite": 2})
    config = manager.config
    manager.config = config.model_copy(update={"critic": config.critic.model_copy(update={"tasks_change": False})})
    observer = Watcher(plain()[1], clock)
    live_one(manager, observer, clock, 1.0)
    observer.pace.asked([make_job(1, number, True) for number in range(8)])
    clock.now += 1
    observer.pace.evaluated(Outcome("g0001-i0000", "", Evaluation(Status.OK, 0.1)))
    assert observer.pace.left(cast(Manager, manager)).text == "0:07"


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_who_watches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"TERM": "xterm"}
    assert isinstance(observer_for(Console(file=Screen(), _environ=environment), False), LiveObserver)
    assert isinstance(observer_for(Console(file=Screen(), _environ={"TERM": "dumb"}), False), PlainObserver)
    assert isinstance(observer_for(Console(file=io.StringIO(), _environ=environment), False), PlainObserver)
    forced = Console(file=io.StringIO(), _environ={"FORCE_COLOR": "1", "TERM": "xterm"})
    assert isinstance(observer_for(forced, False), PlainObserver)  # colours may be forced, a terminal not
    clock, manager = Clock(), FakeManager()
    with watching(json_mode=True) as observer:
        observer.message("warning: x")
        watch(observer, clock, manager)
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 8


def test_the_demo_tells_of_its_comparison_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    report = now_and_then(15.0, clock)
    for second in (0.0, 1.0, 14.0, 15.0, 16.0, 40.0):
        clock.now = 100.0 + second
        report(f"after {second:g} s")
    assert capsys.readouterr().err.split("\n") == ["  after 0 s", "  after 15 s", "  after 40 s", ""]
