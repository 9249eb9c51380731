"""F21, two drivers on one run directory: the kernel's lock, the lease beside it, and who is fenced off (real processes).

Another host is a process with a name of its own, whose kernel lock is a file that we do not look at: so it is on network
file systems where locks hold on one host only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from run_files import commit, create, foreign, journal, lease, leftovers, rows

from gtl import storage
from gtl.errors import RunError
from gtl.population import lock
from gtl.population.lock import RunLock, holder
from gtl.population.store import RunStore

# Prints what it is told and done; commits the generations that come in, one a line. argv: run, host, beat, clock jump
DRIVER = """
import itertools, sys, time
from gtl.errors import RunError
from gtl.population import lock
from gtl.population.store import RunStore

run, host, beat, jump = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
if host:
    lock._machine = lambda: {"host": host, "boot": f"boot of {host}"}
    lock.KERNEL = f".lock-{host}"
if jump:
    began, calls = time.time(), itertools.count()
    time.time = lambda: began + jump * next(calls)
lock.BEAT = beat
store = RunStore.open(run)
try:
    with store.lock(lambda text: print("said", text, flush=True)):
        print("locked", flush=True)
        for line in sys.stdin:
            try:
                store.commit(int(line), {"blobs": []}, [{"id": f"{host} {int(line)}"}])
                print("committed", flush=True)
            except RunError as error:
                print("refused", error, flush=True)
except RunError as error:
    print("refused", error, flush=True)
"""


class Driver:
    """A driver in a process of its own."""

    def __init__(self, run: Path, host: str, beat: float, jump: float) -> None:
        command = [sys.executable, "-c", DRIVER, str(run), host, str(beat), str(jump)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hears(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def commits(self, generation: int) -> str:
        assert self.process.stdin is not None
        print(generation, file=self.process.stdin, flush=True)
        return self.hears()

    def ends(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@contextmanager
def driver(run: Path, host: str = "", beat: float = 0.5, jump: float = 0) -> Iterator[Driver]:
    other = Driver(run, host, beat, jump)
    with other.process:
        try:
            yield other
        finally:
            other.process.kill()


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run of one generation."""
    store = create(tmp_path / "run")
    with store.lock():
        commit(store, 0)
    return store


@pytest.fixture
def said() -> list[str]:
    return []


def never(*_: object) -> None:
    raise AssertionError("nobody should have waited for a sign of life")


# --- one machine: the kernel's lock decides -----------------------------------------------------------------------


def test_f21_a_second_process_is_refused_and_the_first_works_on(store: RunStore, said: list[str]) -> None:
    with driver(store.path) as first:
        assert first.hears() == "locked"
        with driver(store.path) as second:
            assert f"in use by another driver (process {first.process.pid} on " in second.hears()
        with pytest.raises(RunError, match=rf"\(process {first.process.pid} on ") as caught, store.lock(said.append):
            pytest.fail("two drivers")
        assert caught.value.exit_code == 2 and not said
        assert first.commits(1) == "committed"
        first.ends()
    assert not lease(store.path).exists() and holder(store.path) is None
    with store.lock(said.append):
        assert store.latest() == (1, {"blobs": []})
        commit(store, 2)
        with driver(store.path) as second:
            assert f"in use by another driver (process {os.getpid()} on " in second.hears()
    assert not said and [row["id"] for row in journal(store.path)][3] == " 1" and not leftovers(store.path)


def test_f21_a_killed_holder_is_replaced_at_once_and_that_is_said(
    store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunLock, "_watch", never)
    with driver(store.path, beat=0.05) as first:
        assert first.hears() == "locked" and first.commits(1) == "committed"
        first.process.kill()
        first.process.wait()
        assert holder(store.path) is not None
        with store.lock(said.append):
            assert store.latest() == (1, {"blobs": []})
            commit(store, 2)
    assert len(said) == 1 and f"process {first.process.pid} on " in said[0]
    assert said[0].endswith("is dead; this driver takes over") and str(store.path) in said[0]
    assert not lease(store.path).exists()


def test_nobody_to_tell_is_a_warning(store: RunStore) -> None:
    lease(store.path).write_bytes(foreign(**lock._machine()))
    with pytest.warns(RuntimeWarning, match=r"process 17 on .* is dead; this driver takes over"), store.lock():
        pass
    assert not lease(store.path).exists()


@pytest.mark.parametrize("hours", [-9, 9])
def test_f21_the_clock_jumps(store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    now = time.time()
    for generation, host in [(1, ""), (2, "node-3")]:
        with driver(store.path, host, beat=0.5, jump=-hours * 3600) as other:
            assert other.hears() == "locked"
            monkeypatch.setattr("time.time", lambda: now + hours * 3600)
            os.utime(lease(store.path), (2**32, 2**32) if hours > 0 else (0, 0))
            with pytest.raises(RunError, match="in use"), store.lock(said.append):
                pytest.fail("two drivers")
            assert other.commits(generation) == "committed"
            other.process.kill()
            other.process.wait()
            with store.lock(said.append):
                assert store.latest() == (generation, {"blobs": []})
            monkeypatch.undo()
    assert ["takes over" in text for text in said] == [True, False, False, True], "here; elsewhere two waits before it"


# --- another host: the lease decides ------------------------------------------------------------------------------


def test_f21_a_lease_that_is_renewed_is_respected(store: RunStore, said: list[str]) -> None:
    with driver(store.path, "node-3", beat=0.5) as other:
        assert other.hears() == "locked"
        for _ in range(2):
            named = pytest.raises(RunError, match=rf"in use .*\(process {other.process.pid} on node-3\)")
            with named, store.lock(said.append):
                pytest.fail("two drivers")
        assert other.commits(1) == "committed"
        assert holder(store.path) == f"process {other.process.pid} on node-3"
        other.ends()
    assert len(said) == 2 and "waiting 3 s for a sign of life" in said[0] and "on node-3 holds" in said[0]
    with store.lock(said.append):
        assert store.latest() == (1, {"blobs": []})
    assert len(said) == 2, "it left: no one waits"


def test_f21_a_lease_that_is_not_renewed_is_taken_over(store: RunStore, said: list[str]) -> None:
    with driver(store.path, "node-3", beat=0.1) as other:
        assert other.hears() == "locked" and other.commits(1) == "committed"
        other.process.kill()
        other.process.wait()
        (store.path / "gen-000002.tmp.0123456789ab").mkdir()
        with store.lock(said.append):
            assert store.latest() == (1, {"blobs": []}) and not leftovers(store.path)
            commit(store, 2)
            with driver(store.path, "node-4") as third:
                assert third.hears().startswith("said process ")
    assert len(said) == 2 and "waiting 0.6 s" in said[0]
    assert said[1].startswith(f"process {other.process.pid} on node-3, which drove {store.path}, gave no sign of life")
    assert said[1].endswith("this driver takes over")


@pytest.mark.parametrize("after", ["at work", "gone again"])
def test_f21_a_driver_that_slept_through_its_lease_writes_nothing_more(
    store: RunStore, said: list[str], after: str
) -> None:
    def wake(other: Driver) -> None:
        before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
        other.process.send_signal(signal.SIGCONT)
        for generation in (2, 3, 7):
            answer = other.commits(generation)
            assert answer.startswith("refused ") and "writes nothing more" in answer
            assert (f"process {os.getpid()} on " in answer) == (after == "at work")
        other.ends()
        assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before

    with driver(store.path, "node-3", beat=0.1) as other:
        assert other.hears() == "locked" and other.commits(1) == "committed"
        other.process.send_signal(signal.SIGSTOP)
        with store.lock(said.append):
            assert store.latest() == (1, {"blobs": []})
            commit(store, 2)
            if after == "at work":
                wake(other)
            state = commit(store, 3)
        if after == "gone again":
            wake(other)
    assert "takes over" in said[1] and not lease(store.path).exists()
    with store.lock(said.append):
        assert store.latest() == (3, state)
        state = commit(store, 4)
    assert RunStore.open(store.path).latest() == (4, state) and len(said) == 2
    assert journal(store.path) == [*rows(0), {"id": "node-3 1"}, *rows(2), *rows(3), *rows(4)]
    assert not leftovers(store.path) and not (store.path / "quarantine").exists()


def test_a_driver_that_slept_in_the_middle_of_a_commit(
    store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its generation stands, whole; the rows of it come from the one that took over."""
    other = RunStore.open(store.path)

    def sleep(step: str) -> None:
        if step == "renamed gen-000001":
            monkeypatch.setattr(storage, "fault", None)
            monkeypatch.setattr(lock, "KERNEL", ".lock-node-4")
            lease(store.path).write_bytes(lease(store.path).read_bytes().replace(b'"boot"', b'"was"'))
            stack.enter_context(other.lock(said.append))
            assert other.latest() == (1, {"blobs": []})

    monkeypatch.setattr(lock, "BEAT", 0.1)
    with ExitStack() as stack, store.lock():
        with monkeypatch.context() as patch:
            patch.setattr(RunLock, "_renew", lambda *_: True)  # its heart sleeps, too
            monkeypatch.setattr(storage, "fault", sleep)
            with pytest.raises(RunError, match=rf"another driver, process {os.getpid()} on .*, has taken over"):
                store.commit(1, {"blobs": []}, rows(1))
        for act in (store.latest, store.sweep, lambda: store.prune(1), lambda: store.commit(2, {"blobs": []}, [])):
            with pytest.raises(RunError, match="has taken over"):
                act()
        commit(other, 2)
    assert journal(store.path) == [*rows(0), *rows(1), *rows(2)] and len(said) == 2
    assert not lease(store.path).exists()


FORKS = """
import os, sys
from gtl.errors import RunError
from gtl.population.store import RunStore
store = RunStore.open(sys.argv[1])
with store.lock():
    child = os.fork()
    if child == 0:
        try:
            store.commit(1, {"blobs": []}, [])
        except RunError as error:
            print(error, flush=True)
        sys.exit(3)  # through the end of the block
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    store.commit(1, {"blobs": []}, [])
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_forked_child_frees_nothing(store: RunStore) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert "was forked from the driver" in other.stdout.readline() and other.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=rf"process {other.pid} on "), store.lock():
            pytest.fail("two drivers")
        other.communicate("")
    assert other.returncode == 0 and not lease(store.path).exists()
