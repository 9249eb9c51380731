"""Faults on one machine: real drivers, real Ray, real signals. After each, the learngene is that of the undisturbed run."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from driver import configuration

from gtl import engine
from gtl.config_file import dump_config
from gtl.individual import Status
from gtl.lineage import read_rows
from gtl.population.processes import descendants, start_time

DRIVER = Path(__file__).parent / "driver.py"
LEARNGENE = "learngene.safetensors"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


class Driver:
    """A driver process; its lines as they come."""

    def __init__(self, run: Path, *options: str, command: Sequence[str] = (), **environment: str) -> None:
        self.process = subprocess.Popen(
            [*(command or [sys.executable, str(DRIVER)]), str(run), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        self.lines: list[str] = []

    def until(self, start: str) -> str:
        """Read on to a line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith(start):
                return line
        raise AssertionError(f"it never said {start!r}, but {self.lines[-3:]}; {self.end()}")

    def end(self) -> tuple[int, str]:
        """Wait for it: exit code and standard error."""
        out, err = self.process.communicate(timeout=200)
        self.lines += out.splitlines()
        return self.process.returncode, err

    def ray(self) -> list[tuple[int, int | None]]:
        """Ray's processes below it, with their start times."""
        return [(pid, start_time(pid)) for pid in descendants(self.process.pid)]

    def workers(self) -> list[int]:
        """Pids of worker processes, those under way first."""
        titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(self.process.pid)}
        return sorted(
            (p for p, title in titles.items() if b"ray::_Worker" in title), key=lambda p: b"run" not in titles[p]
        )


def alive(found: list[tuple[int, int | None]]) -> list[int]:
    return [pid for pid, at in found if at is not None and start_time(pid) == at]


def within(seconds: float, holds: Callable[[], Any]) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def journal(run: Path) -> list[dict[str, Any]]:
    """Rows without measured times."""
    return [{key: value for key, value in row.items() if key != "time"} for row in read_rows(run / "lineage.jsonl")]


def reasons(run: Path) -> dict[str, str]:
    """Why individuals died."""
    return {row["id"]: row["reason"] for row in read_rows(run / "lineage.jsonl") if row["event"] == "death"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run in one process, left alone."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    return engine.evolve(configuration(longer=False, deadline=300.0), run, workers=1).run


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of some more seconds, left alone."""
    run = tmp_path_factory.mktemp("longer") / "run"
    return engine.evolve(configuration(longer=True, deadline=300.0), run, workers=1).run


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """No process of this test outlives it."""
    yield
    left = [(pid, start_time(pid)) for pid in descendants(os.getpid())]
    gone = within(20, lambda: not alive(left))
    assert gone, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in alive(left)]


def same(run: Path, reference: Path) -> bool:
    """Bytes of the learngene, and the journal apart from times."""
    return (run / LEARNGENE).read_bytes() == (reference / LEARNGENE).read_bytes() and journal(run) == journal(reference)


# --- workers -------------------------------------------------------------------------------------------------------


def test_f1_worker_killed(undisturbed: Path, tmp_path: Path) -> None:
    """By the system, as its out-of-memory killer does: signal 9 from outside, in the middle of a life."""
    driver = Driver(tmp_path / "run", "--workers", "2", "--fault", "g0002-i0001=hang*1")
    driver.until("generation 1")
    pid = tmp_path / "run-attempts-g0002-i0001.pid"
    assert within(60, lambda: pid.exists() and pid.read_text())
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert driver.end() == (0, "")
    assert any("g0002-i0001 is tried again: worker on" in line for line in driver.lines)
    assert same(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_f2_worker_killed_at_any_moment(undisturbed: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    names = [f"g000{generation}-i000{number}" for generation in (0, 2, 3) for number in range(3)]
    faults = [f"--fault={name}=kill@{draw.uniform(0, 0.1):.3f}*1" for name in draw.sample(names, 4)]
    driver = Driver(tmp_path / "run", "--workers", "2", *faults)
    assert driver.end() == (0, "")
    assert any("is tried again" in line for line in driver.lines)
    assert same(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_f3_poison_individual(tmp_path: Path) -> None:
    """One that kills every worker costs its slot, and says so; the others finish."""
    driver = Driver(tmp_path / "run", "--workers", "2", "--fault", "g0002-i0000=kill")
    assert driver.end() == (0, "")
    assert sum("g0002-i0000 is tried again" in line for line in driver.lines) == 2
    assert (tmp_path / "run-attempts" / "g0002-i0000").stat().st_size == 3
    rows = read_rows(tmp_path / "run" / "lineage.jsonl")
    (verdict,) = [row for row in rows if row["event"] == "evaluation" and row["id"] == "g0002-i0000"]
    assert verdict["status"] == Status.LOST
    assert reasons(tmp_path / "run")["g0002-i0000"].startswith("cost 3 workers on 1 node; the last: worker on ")
    shown = json.loads(
        subprocess.run(
            [sys.executable, "-m", "gtl", "status", str(tmp_path / "run"), "--json"],
            capture_output=True, check=True, text=True,
        ).stdout
    )  # fmt: skip
    assert [row["failed"] for row in shown["logbook"]] == [0, 0, 1, 0]
    assert "g0002-i0000" in json.dumps(shown), "status names it"


def test_f11_hung_worker(undisturbed: Path, tmp_path: Path) -> None:
    """One that sleeps, and one that was stopped and does not even answer Ray: both are late, killed, and replaced."""
    faults = ["--fault=g0002-i0001=hang*1", "--fault=g0003-i0000=stop*1"]
    # a busy machine may need more than 6 s for a life
    driver = Driver(tmp_path / "run", "--workers", "2", "--deadline", "10", *faults)
    assert driver.end() == (0, "")
    for name in ("g0002-i0001", "g0003-i0000"):
        late = re.compile(rf"{name} is tried again: no answer within the \d+ s that it was given")
        assert any(late.search(line) for line in driver.lines), driver.lines
    assert same(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_f11_one_that_always_hangs_has_timed_out(tmp_path: Path) -> None:
    driver = Driver(tmp_path / "run", "--workers", "2", "--deadline", "8", "--fault", "g0002-i0001=hang")
    assert driver.end() == (0, "")
    rows = read_rows(tmp_path / "run" / "lineage.jsonl")
    (verdict,) = [row for row in rows if row["event"] == "evaluation" and row["id"] == "g0002-i0001"]
    assert verdict["status"] == Status.TIMED_OUT
    assert "no answer within the " in reasons(tmp_path / "run")["g0002-i0001"]


@pytest.mark.slow
def test_f13_worker_without_memory(undisturbed: Path, tmp_path: Path) -> None:
    """Python's own MemoryError: tried again with fewer workers side by side, and said."""
    driver = Driver(tmp_path / "run", "--workers", "2", "--fault", "g0002-i0001=memory*1")
    assert driver.end() == (0, "")
    assert any("has too little memory for 2 workers, going on with 1" in line for line in driver.lines)
    assert same(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_f23_one_diverges(tmp_path: Path) -> None:
    driver = Driver(tmp_path / "run", "--workers", "2", "--fault", "g0002-i0000=diverge")
    assert driver.end() == (0, "")
    assert "training diverged" in reasons(tmp_path / "run")["g0002-i0000"]
    assert (tmp_path / "run-attempts" / "g0002-i0000").stat().st_size == 1, "it would diverge again"
    parents = {parent for row in read_rows(tmp_path / "run" / "lineage.jsonl") for parent in row.get("parents", ())}
    assert "g0002-i0000" not in parents, "it never wins"


@pytest.mark.slow
def test_f24_all_diverge(tmp_path: Path) -> None:
    driver = Driver(tmp_path / "run", "--workers", "2", "--fault", "*=diverge")
    code, error = driver.end()
    assert code == 1
    assert re.search(r"generation 2: 3 of 4 individuals failed .*lower life.training.learning_rate", error)
    assert not any(line.startswith("generation 2") for line in driver.lines)


@pytest.mark.slow
def test_f24_all_lose_their_workers(tmp_path: Path) -> None:
    """Then it is the cluster that is ill, and the exit code says so; what was finished stays."""
    faults = [f"--fault=g0002-i000{n}=kill" for n in range(3)]
    code, error = Driver(tmp_path / "run", "--workers", "2", *faults).end()
    assert code == 69 and "generation 2: 3 of 4 individuals failed" in error and "cost 3 workers" in error
    assert Driver(tmp_path / "run", "--workers", "1").end() == (0, ""), "a resumed run gives them another chance"


# --- the driver ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_f4_driver_killed(longer: Path, tmp_path: Path) -> None:
    """Signal 9, three times; workers are gone at once, Ray's orphans when the run goes on."""
    run, orphans = tmp_path / "run", []
    for moment in ("message ancestor: step 1", "evaluated g0002-i0001", "evaluated g0004-i0000"):
        driver = Driver(run, "--workers", "2", "--longer")
        driver.until(moment)
        found, workers = driver.ray(), [(pid, start_time(pid)) for pid in driver.workers()]
        driver.process.kill()
        assert driver.end()[0] == -signal.SIGKILL
        assert within(10, lambda workers=workers: not alive(workers)), "workers die with their driver"
        orphans += found
    assert Driver(run, "--workers", "2", "--longer").end() == (0, "")
    assert not alive(orphans), "the driver that resumes ends what the killed one left behind"
    assert same(run, longer)


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        pytest.param(signal.SIGTERM, "2", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "2", marks=pytest.mark.slow),
        (signal.SIGTERM, "1"),
        pytest.param(signal.SIGINT, "1", marks=pytest.mark.slow),  # by default in the live table, see F6
    ],
)
def test_f5_asked_to_stop(longer: Path, tmp_path: Path, number: signal.Signals, workers: str) -> None:
    """In the ancestor's training, and between lives: what is finished is kept, and not done again."""
    run, code = tmp_path / "run", {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    done: list[str] = []
    for moment in ("message ancestor: step 1", "evaluated g0003-i0001"):
        driver = Driver(run, "--workers", workers, "--longer", "--fault", "none=raise")
        driver.until(moment)
        driver.process.send_signal(number)
        asked = time.monotonic()
        ended, error = driver.end()
        assert ended == code and f"go on with: gtl resume {run}" in error, error
        assert time.monotonic() - asked < 30
        assert not (run / "lock.json").exists(), "the lock is released"
        began = max((n for n, line in enumerate(driver.lines) if line.startswith("generation")), default=0)
        done += [line.split()[1] for line in driver.lines[began:] if line.startswith("evaluated")]
    assert Driver(run, "--workers", workers, "--longer", "--fault", "none=raise").end() == (0, "")
    assert same(run, longer)
    if workers == "2":  # in process no fault counts the attempts
        rows = read_rows(run / "lineage.jsonl")
        judged = Counter(row["id"] for row in rows if row["event"] == "evaluation")  # survivors once a generation
        attempts = {path.name: path.stat().st_size for path in (tmp_path / "run-attempts").iterdir()}
        again = [name for name in done if attempts[name] > judged[name]]
        assert not again, f"evaluated again: {again}"
        assert "g0003-i0001" in done or "generation 3" in driver.lines, "or it was slow to hear, and came to the end"


@pytest.mark.slow
def test_f5_twice_is_at_once(longer: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver = Driver(run, "--workers", "2", "--longer")
    driver.until("evaluated g0002-i0001")
    driver.process.send_signal(signal.SIGTERM)
    driver.process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert driver.end()[0] in (75, -signal.SIGTERM)
    assert time.monotonic() - asked < 10
    assert Driver(run, "--workers", "2", "--longer").end() == (0, "")
    assert same(run, longer)


def test_f6_ctrl_c_in_the_live_table(tmp_path: Path) -> None:
    """A real terminal: the cursor is shown again, the exit code is 130, the run goes on."""
    (tmp_path / "tiny.yaml").write_text(dump_config(configuration(longer=True, deadline=300.0)))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    command = [sys.executable, "-m", "gtl", "evolve", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    screen = b""
    while b"lives" not in screen:
        screen += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    os.close(slave)
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other side is closed: it has ended
            break
        screen += part
    assert process.wait(60) == 130
    assert screen.rindex(b"\x1b[?25h") > screen.rindex(b"\x1b[?25l"), "the cursor is shown again"
    assert b"interrupted. What was finished is saved; go on with: gtl resume" in screen.replace(b"\r\n", b" ")
    code, error = Driver(tmp_path / "run", command=[sys.executable, "-m", "gtl", "resume"]).end()
    assert code == 0, error


# --- the same for any number of workers ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2", pytest.param("3", marks=pytest.mark.slow)])
def test_f37_worker_count_never_shows(undisturbed: Path, tmp_path: Path, workers: str) -> None:
    """Random delays make the order of arrival another one each time."""
    driver = Driver(tmp_path / "run", "--workers", workers, "--fault", "*=delay")
    assert driver.end() == (0, "")
    assert same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("seed", ["0", pytest.param("1", marks=pytest.mark.slow), "random"])
def test_f38_hash_seeds_never_show(undisturbed: Path, tmp_path: Path, seed: str) -> None:
    assert Driver(tmp_path / "run", "--workers", "1", PYTHONHASHSEED=seed).end() == (0, "")
    assert same(tmp_path / "run", undisturbed)


# --- output --------------------------------------------------------------------------------------------------------


def test_f40_a_line_a_generation(tmp_path: Path) -> None:
    """Piped, on workers, one of which is killed: a heading, a line a generation, what came out; nothing of Ray's."""
    settled = configuration(longer=True, deadline=300.0)
    (tmp_path / "tiny.yaml").write_text(dump_config(settled))
    run = tmp_path / "run"
    driver = Driver(
        tmp_path / "tiny.yaml", "--workers", "2", "--out", str(run), command=[sys.executable, "-m", "gtl", "evolve"]
    )
    driver.until("   2")
    os.kill(driver.workers()[0], signal.SIGKILL)
    code, error = driver.end()
    assert code == 0
    generations = 1 + settled.evolution.search_generations + settled.evolution.generations
    before = [line for line in driver.lines if line.startswith("ancestor:")]
    heading = next(n for n, line in enumerate(driver.lines) if line.split()[:2] == ["gen", "phase"])
    table = driver.lines[heading + 1 : heading + 1 + generations]
    assert [int(line.split()[0]) for line in table] == list(range(generations))
    assert heading == len(before) <= 8, "the ancestor's lines thin out"
    after = driver.lines[heading + 1 + generations :]
    assert after[0] == f"learngene: {run / LEARNGENE}" and len(after) <= 5
    assert error.splitlines() == [f"next: gtl fewshot {run} --data glyphs"]
    assert "ray" not in " ".join(driver.lines).lower().replace("gray", "")
