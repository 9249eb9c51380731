"""`gtl status` and `gtl watch`: a run seen from another shell, while it lives, when it was killed, when it is done."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import gtl
from rich.console import Console
from tiny_run import tiny

from gtl import engine
from gtl.cli import watch as door
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.population.evaluator import InProcessEvaluator
from gtl.population.progress import read_progress
from gtl.population.standing import Onlooker

EVOLVE = "import sys; from tiny_run import tiny; from gtl import engine; engine.evolve(tiny(), sys.argv[1])"
REPORT = {"ready": 7, "starting": 1, "busy": 6, "retries": 2, "lost": 1, "nodes": 3, "note": "worker on node-3 died"}
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


def start(run: Path) -> subprocess.Popen[bytes]:
    """A driver in another process; it has made its run directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", EVOLVE, str(run)],
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    while process.poll() is None and not (run / "run.json").exists():
        time.sleep(0.01)
    return process


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "GRACE", 0.2)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, one of whose individuals diverged in each of two generations."""
    run = tmp_path_factory.mktemp("runs") / "one"
    failing = {"g0000-i0001": "loss is\nnan in step 3", "g0002-i0002": "loss is inf"}
    real = InProcessEvaluator.evaluate

    def evaluate(self: InProcessEvaluator, jobs: list[Job]) -> Iterator[Outcome]:
        for outcome in real(self, jobs):
            if outcome.individual in failing:
                yield Outcome(outcome.individual, "", Evaluation(Status.DIVERGED, reason=failing[outcome.individual]))
            else:
                yield outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcessEvaluator, "evaluate", evaluate)
        engine.evolve(tiny(), run)
    return run


def test_a_driver_is_watched_until_it_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    driver = start(run)

    def kill() -> None:
        with suppress(FileNotFoundError):
            while not (run / "gen-000001").exists():
                time.sleep(0.01)
        driver.kill()
        driver.wait()

    killer = threading.Thread(target=kill)
    try:
        assert Onlooker(run).look().driver.state in {"alive", "none"}
        killer.start()
        assert gtl("watch", run, "--interval", 0.1) == 75
    finally:
        driver.kill()
        killer.join()
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split() == list(door.COLUMNS) and [line.split()[0] for line in lines[1:3]] == ["0", "1"]
    assert f"process {driver.pid}" in printed.err and f"gtl resume {run}" in printed.err
    assert gtl("status", run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["driver"]["state"], found["finished"]) == ("gone", False)
    assert gtl("status", run) == 0
    shown = capsys.readouterr().out
    assert "nobody is driving it" in shown and "go on with: gtl resume" in shown


def test_watching_a_run_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    driver = threading.Thread(target=engine.evolve, args=(tiny(), run))
    driver.start()
    while driver.is_alive() and not (run / "lock.json").exists():
        time.sleep(0.01)
    assert gtl("watch", run, "--interval", 0.1) == 0
    driver.join()
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == ["gen", *"0123"]
    assert printed.err == f"finished: {run / 'learngene.safetensors'}\n"


def test_status_tells_what_failed_and_why(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gtl("status", done, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["alive"], row["failed"]) for row in found["logbook"]] == [(3, 1), (4, 0), (3, 1), (4, 0)]
    told = [(row["generation"], row["example"], row["reason"], row["count"]) for row in found["failures"]]
    assert told == [(2, "g0002-i0002", "loss is inf", 1), (0, "g0000-i0001", "loss is nan in step 3", 1)]
    assert (found["alive"], found["finished"], found["driver"]["state"]) == (4, True, "none")
    monkeypatch.setenv("COLUMNS", "100")
    assert gtl("status", done) == 0
    shown = capsys.readouterr().out
    assert "generation 0: g0000-i0001 diverged: loss is nan in step 3" in shown
    assert "learngene: " in shown and "driving" not in shown


def living(done: Path, where: Path, **said: Any) -> Path:
    """A run whose driver, this process, says so."""
    run = Path(shutil.copytree(done, where / "living", dirs_exist_ok=True))
    found = read_progress(run)
    assert found is not None
    now = {
        "state": "generation",
        "generation": 4,
        "last_generation": 9,
        "jobs": 32,
        "done": 12,
        "failed": 1,
        "pending": 20,
    }
    now |= {"best": 0.77, "seconds_left": 754.2, "running": 6, "workers": REPORT, **said}
    (run / "progress.json").write_text(json.dumps({**found, **now}))
    lease = {name: found[name] for name in ("pid", "host", "boot")}
    (run / "lock.json").write_text(json.dumps(lease))
    return run


@pytest.mark.parametrize("columns", [80, 120])
def test_what_a_terminal_shows_of_a_living_run(done: Path, tmp_path: Path, columns: int) -> None:
    run = living(done, tmp_path)
    stream = io.StringIO()
    console = Console(file=stream, width=columns, height=24, force_terminal=True, _environ={"TERM": "xterm"})
    with door._Screen(console) as screen:
        screen.show(Onlooker(run).look())
    shown = plain(stream.getvalue())
    for wanted in (
        "pico: generation 3 of 3",
        "generation 4 of 9  12/32, best so far 77.0%",
        "left 12:34",
        "11 alive, 1 failed, 6 running, 14 waiting",
        "workers 7 of 8 on 3 nodes, 2 retries, 1 lost; worker on node-3 died",
        f"driven by process {os.getpid()}",
        "whole networks under the same critic",
    ):
        assert wanted in shown, wanted
    assert max(map(len, shown.splitlines())) <= columns
    assert stream.getvalue().count(HIDE) == stream.getvalue().count(SHOW) == 1


def test_a_low_terminal_keeps_the_newest(done: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=14, force_terminal=True, _environ={"TERM": "xterm"})
    run = living(done, tmp_path)
    with door._Screen(console) as screen:
        screen.show(Onlooker(run).look())
    shown = plain(stream.getvalue())
    assert "2 more" in shown and "3  lives" in shown and "0  founding" not in shown
    assert len(shown.splitlines()) <= 2 * 14  # drawn twice: at the look, and when it is left


def test_ctrl_c_ends_watching_and_says_that_the_run_goes_on(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = living(done, tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts tests may ignore it
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        assert gtl("watch", run) == 130
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err
    assert "the run goes on" in said and "gtl resume" not in said


def test_generations_that_vanish_for_a_moment_are_waited_for(done: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done, tmp_path / "run"))
    eye = Onlooker(run)
    (run / "ancestor.json").rename(run / "ancestor.away")
    (run / "ancestor.json").write_text("{")  # as a writer that is no writer of ours might leave it

    def back() -> None:
        time.sleep(0.15)
        (run / "ancestor.away").replace(run / "ancestor.json")

    thread = threading.Thread(target=back)
    thread.start()
    now = eye.look()
    thread.join()
    assert now.generation == 3 and "scratch" in now.reference


def test_a_stopped_run_says_why_and_how_to_go_on_once(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for message in ("stopped by SIGTERM. What was finished is saved; go on with: gtl resume RUN", "the disk is full"):
        run = living(done, tmp_path / message[:3], state="stopped", message=message)
        (run / "lock.json").unlink()
        assert gtl("watch", run) == 75
        said = capsys.readouterr().err
        assert message in said and said.count("gtl resume") == 1
        assert gtl("status", run) == 0
        assert " ".join(capsys.readouterr().out.split()).count("gtl resume") == 1


def test_what_is_not_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(door, "YOUNG", 0.3)
    assert gtl("watch", tmp_path / "nowhere") == 2
    (tmp_path / "config.yaml").write_text("")  # being made? for so long a time it is not
    assert gtl("watch", tmp_path) == 2
    assert capsys.readouterr().err.count("not a run directory") == 2
