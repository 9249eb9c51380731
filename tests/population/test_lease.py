"""Leases of every kind, the heart that renews one, and file systems on which nothing but the lease decides (F21)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
from run_files import commit, create, foreign, lease, leftovers

from gtl.errors import RunError, StorageError
from gtl.population import lock
from gtl.population.lock import RunLock, holder
from gtl.population.store import RunStore


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


# --- leases of every kind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        bytes(200),
        b"\xff",
        foreign(pid="x"),
        foreign(host=5),
        foreign(host="\x1b[2J"),
        b'{"token": 1}',
    ],
)
def test_a_damaged_lease_is_watched_too(
    store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    lease(store.path).write_bytes(text)
    assert holder(store.path) == "a process that has not said which"
    with store.lock(said.append):
        commit(store, 1)
    assert len(said) == 2 and said[1].startswith("a process that has not said which, which drove")
    lease(store.path).write_bytes(text)
    moves = threading.Timer(0.1, lambda: lease(store.path).write_bytes(text + b" "))
    moves.start()
    with pytest.raises(RunError, match="in use by another driver"), store.lock(said.append):
        pytest.fail("it moved")
    moves.join()
    assert lease(store.path).read_bytes() == text + b" "


def test_a_lease_of_an_older_gtl_is_watched(store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    lease(store.path).write_text(json.dumps({"pid": 17, "host": lock._machine()["host"]}))
    with store.lock(said.append):
        commit(store, 1)
    assert ["takes over" in text for text in said] == [False, True] and "process 17 on" in said[0]


@pytest.mark.parametrize(("every", "waits"), [(5, 30), (20, 120), (0, 30), (-1, 30), (1e9, 30), ("x", 30), (None, 30)])
def test_how_long_to_wait_is_what_the_holder_says(
    store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch, every: object, waits: int
) -> None:
    naps: list[float] = []
    lease(store.path).write_bytes(foreign(every=every))
    monkeypatch.setattr("time.sleep", naps.append)
    with store.lock(said.append):
        monkeypatch.undo()
    assert sum(naps) == pytest.approx(waits) and f"waiting {waits} s" in said[0]


def test_the_same_name_after_another_boot_may_be_another_host(store: RunStore, said: list[str]) -> None:
    lease(store.path).write_bytes(foreign(host=lock._machine()["host"]))
    with store.lock(said.append):
        commit(store, 1)
    assert "waiting 0.6 s" in said[0] and "gave no sign of life" in said[1]


def test_no_boot_id_to_read(store: RunStore, monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path) -> None:
    monkeypatch.setattr(lock, "BOOT", tmp_path / "none")
    monkeypatch.setattr(RunLock, "_watch", never)
    lease(store.path).write_bytes(foreign(host=lock._machine()["host"], boot=""))
    with store.lock(said.append):
        commit(store, 1)
    assert len(said) == 1 and "is dead" in said[0]


def test_a_holder_that_leaves_while_it_is_watched(store: RunStore, said: list[str]) -> None:
    lease(store.path).write_bytes(foreign(every=5))
    leaves = threading.Timer(0.1, lease(store.path).unlink)
    leaves.start()
    with store.lock(said.append):
        leaves.join()
        commit(store, 1)
    assert len(said) == 1 and "waiting 30 s" in said[0]


@pytest.mark.parametrize("late", [foreign(beat=5), foreign(token="u" * 32), None])
def test_of_several_who_take_over_one_succeeds(
    store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch, late: bytes | None
) -> None:
    """Between our last look and our move, the holder wakes up, or another takes the lease, or is about to."""
    lease(store.path).write_bytes(foreign())

    def preempted(*_: object) -> str:
        if late is None:
            lease(store.path).unlink()
        else:
            lease(store.path).write_bytes(late)
        return "gave no sign of life"

    monkeypatch.setattr(RunLock, "_watch", preempted)
    with pytest.raises(RunError, match="in use by another driver"), store.lock(said.append):
        pytest.fail("two drivers")
    assert not said and not leftovers(store.path)
    assert (lease(store.path).read_bytes() if late else None) == late
    monkeypatch.undo()
    lease(store.path).unlink(missing_ok=True)
    with store.lock(said.append):
        commit(store, 1)


# --- the heart ----------------------------------------------------------------------------------------------------


def beat(run: Path) -> int:
    return int(json.loads(lease(run).read_bytes())["beat"])


def wait_for(true: Any) -> bool:
    for _ in range(500):
        if true():
            return True
        time.sleep(0.02)
    return False


def test_the_heart_beats_until_release(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with store.lock():
        size, hearts = lease(store.path).stat().st_size, [t for t in threading.enumerate() if t.name == "gtl lease"]
        assert wait_for(lambda: beat(store.path) > 10) and lease(store.path).stat().st_size == size
        record = json.loads(lease(store.path).read_bytes())
        assert set(record) == {"pid", "host", "boot", "token", "every", "beat"} and record["pid"] == os.getpid()
        assert len(hearts) == 1 and hearts[0].daemon
        commit(store, 1)
        assert not leftovers(store.path)
    assert not hearts[0].is_alive() and not lease(store.path).exists()


def test_a_full_disk_stops_no_heart(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    original, failures = RunLock._renew, iter(range(5))

    def renew(self: RunLock, beat: int) -> bool:
        if next(failures, None) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, beat)

    monkeypatch.setattr(RunLock, "_renew", renew)
    with store.lock():
        assert wait_for(lambda: beat(store.path) > 5)
        commit(store, 1)


def test_the_heart_never_overwrites_another_lease(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.lock():
        held = store._lock
        assert held is not None

        def record(_: int) -> bytes:  # the last moment before the write
            (store.path / "theirs").write_bytes(foreign())
            os.replace(store.path / "theirs", lease(store.path))
            return b"x" * 300

        with monkeypatch.context() as patch:
            patch.setattr(held, "_record", record)
            assert held._renew(1), "it still held the old file"
        assert lease(store.path).read_bytes() == foreign()
        assert not held._renew(2)
        with pytest.raises(RunError, match=r"another driver, process 17 on node-3, has taken over .* nothing more"):
            store.commit(1, {"blobs": []}, [])
        assert not (store.path / "gen-000001").exists()
    assert lease(store.path).read_bytes() == foreign(), "not ours to remove"


def test_a_lease_that_is_gone_or_cannot_be_read(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.lock():
        original = Path.read_bytes

        def read_bytes(path: Path) -> bytes:
            if path.name == "lock.json":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return original(path)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", read_bytes)
            with pytest.raises(StorageError, match=r"cannot read .*lock.json"):
                commit(store, 1)
        commit(store, 1)
        lease(store.path).unlink()
        with pytest.raises(RunError, match=r"lock.json is gone: .* `gtl resume`"):
            commit(store, 2)
    with store.lock():
        assert commit(store, 2) == (store.latest() or (0, {}))[1]


# --- file systems without kernel locks ----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_kernel_locks_the_lease_alone_decides(
    store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "BEAT", 0.1)
    (store.path / ".lock").unlink(missing_ok=True)
    with store.lock(said.append):
        commit(store, 1)
        named = pytest.raises(RunError, match=rf"in use .*process {os.getpid()} on ")
        with named, RunStore.open(store.path).lock(said.append):
            pytest.fail("two drivers")
        commit(store, 2)
    assert len(said) == 1 and not lease(store.path).exists()
    (store.path / ".lock").write_text(f"{os.getppid()}\nnode-3\n")  # filelock's marker, left by a killed driver
    lease(store.path).write_bytes(foreign(**lock._machine()))
    with store.lock(said.append):
        commit(store, 3)
    assert "waiting 0.6 s" in said[1] and "takes over" in said[2], "no kernel says that it is dead"


def test_an_older_filelock_without_kernel_locks(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with store.lock():
        commit(store, 1)
        assert lease(store.path).exists()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    with pytest.raises(StorageError, match="Input/output error"), store.lock():
        pytest.fail("a broken disk is not a missing lock")
