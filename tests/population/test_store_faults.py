"""Full and broken disks, damaged files, edited journals, and two drivers on one run directory (F17-F21)."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import commit, create, journal, leftovers, mounted, rows, tensors

from gtl import storage
from gtl.errors import RunError, StorageError
from gtl.population.manifest import fingerprint, read_manifest, seal
from gtl.population.store import RunStore


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunStore, list[dict[str, Any]]]:
    """A run of three generations, and their states."""
    store = create(tmp_path / "run")
    with store.lock():
        states = [commit(store, generation) for generation in range(3)]
    return store, states


# --- F17, F18: the disk -------------------------------------------------------------------------------------------


def test_f17_every_step_of_a_commit_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of them; the order of steps is what counts
    steps: list[str] = []
    store = create(tmp_path / "count")
    with store.lock():
        commit(store, 0)
        monkeypatch.setattr(storage, "fault", steps.append)
        commit(store, 1)
    codes = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO]
    for failing, code in zip(range(len(steps)), itertools.cycle(codes), strict=False):
        monkeypatch.setattr(storage, "fault", None)
        store = create(tmp_path / str(failing))
        countdown = iter(range(len(steps)))

        def fail(_: str, countdown: Iterator[int] = countdown, failing: int = failing, code: int = code) -> None:
            if next(countdown) == failing:
                raise OSError(code, os.strerror(code))

        with store.lock():
            before = commit(store, 0)
            monkeypatch.setattr(storage, "fault", fail)
            with pytest.raises(StorageError, match=rf"{store.path}.* bytes needed\): {os.strerror(code)}") as caught:
                commit(store, 1)
            assert caught.value.exit_code == 74
            monkeypatch.setattr(storage, "fault", None)
            assert not leftovers(store.path), steps[failing]
            latest = store.latest()
            assert latest is not None and (latest == (0, before) or latest[0] == 1)
            assert journal(store.path) == [row for g in range(latest[0] + 1) for row in rows(g)]
            commit(store, latest[0] + 1)


def test_f16_names_of_blobs_are_durable_before_a_generation_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sync for each folder of blobs, not for each blob; also of a folder whose blob somebody put before."""
    store = create(tmp_path / "run")
    names = [store.blobs.put(tensors(seed)) for seed in range(40)]
    again = RunStore.open(store.path)
    steps: list[str] = []
    monkeypatch.setattr(storage, "fault", steps.append)
    assert [again.blobs.put(tensors(seed)) for seed in range(40)] == names
    assert steps == []
    with again.lock():
        steps.clear()
        again.commit(1, {"blobs": sorted(names)}, [])
    folders = sorted({f"synced folder {name[:2]}" for name in names})
    assert steps[: len(folders)] == folders
    assert "renamed gen-000001" in steps[len(folders) :]
    steps.clear()
    again.blobs.sync()
    assert steps == []


def test_f17_full_disk(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        store = create(disk / "run")
        with store.lock():
            before = commit(store, 0, size=4000)
            generation = 1
            for left in range(0, 80, 4):  # the disk is full a little later each time
                free = os.statvfs(disk)
                (disk / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - left * 1024)))
                try:
                    before = commit(store, generation, size=4000)
                except StorageError as error:
                    assert "No space left" in str(error) and "bytes needed" in str(error) and str(disk) in str(error)
                    assert not leftovers(store.path)
                else:
                    generation += 1
                    assert left > 40
                (disk / "filler").unlink()
                latest = store.latest()
                assert latest is not None
                if latest[0] == generation:  # only the journal did not fit
                    before, generation = latest[1], generation + 1
                assert latest == (generation - 1, before)
            commit(store, generation, size=4000)
            assert generation > 1
        assert [row["generation"] for row in journal(store.path)][-1] == generation
        (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * 4096))
        with pytest.raises(StorageError, match="No space left"), store.lock():
            pass
        with pytest.raises(StorageError, match="No space left"):
            create(disk / "other")
        assert not (disk / "other").exists() or not list((disk / "other").iterdir())
        assert RunStore.open(store.path).latest() is not None
        (disk / "filler").unlink()
        create(disk / "other")
        with store.lock():
            commit(store, generation + 1)


def test_f18_read_only_directory(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        store = create(disk / "run")
        with store.lock():
            state = commit(store, 0)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StorageError, match="Read-only file system"), store.lock():
            pytest.fail("the preflight did not see it")
        with pytest.raises(StorageError, match="Read-only file system"):
            create(disk / "other")
        assert RunStore.open(store.path).latest() == (0, state), "reading needs no writing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_f18_no_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        create(tmp_path / "locked" / "run")


def test_f18_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fsync takes its time, as on a busy server: nothing is believed done before it is."""
    real, order = os.fsync, []

    def slow(descriptor: int) -> None:
        time.sleep(0.02)
        real(descriptor)
        order.append(os.readlink(f"/proc/self/fd/{descriptor}") if Path("/proc/self/fd").exists() else "")

    store = create(tmp_path / "run")
    with store.lock():
        commit(store, 0)
        monkeypatch.setattr(os, "fsync", slow)
        state = commit(store, 1)
    assert len(order) >= 6 and RunStore.open(store.path).latest() == (1, state)


def test_f18_unreadable_is_not_damaged(run: tuple[RunStore, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a moment must not send whole generations to quarantine."""
    store, states = run
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "state.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with store.lock(), pytest.raises(StorageError, match=r"cannot read .*state.json"):
        store.latest()
    monkeypatch.undo()
    assert store.latest() == (2, states[2])


# --- F19: damaged files -------------------------------------------------------------------------------------------


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as stream:  # in place: truncating a file 2000 times is slow on some disks
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ bit]))


def test_f19_any_flipped_bit_steps_back_one_generation(run: tuple[RunStore, list[Any]]) -> None:
    store, states = run
    folder = store.path / "gen-000002"
    files = [*folder.iterdir(), store.blobs.path(states[2]["blobs"][0])]
    assert len(files) == 4
    draw = np.random.default_rng(0)
    for _ in range(1000):
        path = files[draw.integers(len(files))]
        at, bit = int(draw.integers(path.stat().st_size)), 1 << int(draw.integers(8))
        flip(path, at, bit)
        assert store.latest() == (1, states[1])  # without the lock: nothing moves
        flip(path, at, bit)
    assert store.latest() == (2, states[2])


@pytest.mark.parametrize("what", ["state.json", "manifest.json", "lineage.jsonl", "blob", "missing blob", "no state"])
def test_f19_damage_is_quarantined_and_the_run_goes_on(run: tuple[RunStore, list[Any]], what: str) -> None:
    store, states = run
    path = store.path / "gen-000002" / what
    if "blob" in what:
        path = store.blobs.path(states[2]["blobs"][0])
    if what == "no state":
        path = store.path / "gen-000002" / "state.json"
    path.write_bytes(path.read_bytes()[:-3])
    if what in {"missing blob", "no state"}:
        path.unlink()
    with store.lock():
        assert store.latest() == (1, states[1])
        aside = {found.name for found in (store.path / "quarantine").iterdir()}
        assert aside == ({"gen-000002", path.name} if what == "blob" else {"gen-000002"})
        assert journal(store.path) == [*rows(0), *rows(1)]
        assert commit(store, 2) == states[2]
        assert store.latest() == (2, states[2])
        path.write_bytes(b"")
        assert store.latest() == (1, states[1])
    assert len(list((store.path / "quarantine").glob("gen-000002*"))) == 2, "nothing in quarantine is overwritten"


FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no files": lambda m: m.pop("files"),
    "files is a list": lambda m: m.update(files=[]),
    "a file without a hash": lambda m: m["files"].update({"state.json": {"size": 3}}),
    "blobs is a number": lambda m: m.update(blobs=3),
    "a blob that is a path": lambda m: m.update(blobs=["../../run.json"]),
    "a blob that is no text": lambda m: m.update(blobs=[[]]),
    "no journal": lambda m: m.pop("journal"),
    "a journal with more to say": lambda m: m["journal"].update(more=1),
    "a journal of half a byte": lambda m: m["journal"].update(size=0.5),
    "generation is text": lambda m: m.update(generation="2"),
    "no config": lambda m: m.pop("config_hash"),
}


@pytest.mark.parametrize("name", FORGED)
def test_f19_a_forged_manifest_is_a_step_back(run: tuple[RunStore, list[Any]], name: str) -> None:
    """Its hash is right, since anyone can compute it; what it says cannot be used."""
    store, states = run
    path = store.path / "gen-000002" / "manifest.json"
    manifest = read_manifest(path.parent)
    FORGED[name](manifest)
    path.write_bytes(seal(manifest))
    assert store.latest() == (1, states[1])


def test_f19_a_state_that_is_no_json_is_a_step_back(run: tuple[RunStore, list[Any]]) -> None:
    store, states = run
    folder = store.path / "gen-000002"
    manifest = read_manifest(folder)
    for content in (b"\xff", b"{", b"[" * 100_000):
        (folder / "state.json").write_bytes(content)
        manifest["files"]["state.json"] = fingerprint(content)
        (folder / "manifest.json").write_bytes(seal(manifest))
        assert store.latest() == (1, states[1])


def test_f19_damage_everywhere(run: tuple[RunStore, list[Any]]) -> None:
    store, states = run
    store.blobs.path(states[0]["blobs"][1]).unlink()  # every generation shares it
    with store.lock():
        with pytest.raises(RunError, match=r"no whole generation left \(gen-000002: blob .*missing.*Start a new run"):
            store.latest()
        assert len(list(store.path.glob("gen-*"))) == 3, "nothing moves when there is nothing to go back to"


def test_f19_damage_of_an_old_generation_matters_only_when_needed(run: tuple[RunStore, list[Any]]) -> None:
    store, states = run
    (store.path / "gen-000000" / "lineage.jsonl").write_text("x")
    (store.path / "gen-000000" / "manifest.json").unlink()
    text = (store.path / "lineage.jsonl").read_bytes()
    (store.path / "lineage.jsonl").write_bytes(text[:-5])  # its own rows were torn: generation 2 has them
    with store.lock():
        assert store.latest() == (2, states[2])
        assert (store.path / "lineage.jsonl").read_bytes() == text
        (store.path / "lineage.jsonl").write_bytes(b"")
        with pytest.raises(RunError, match="do not hold all of its rows either"):
            store.latest()


# --- F20: the journal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torn", "rows missing", "empty", "absent", "CRLF", "CRLF torn", "zeros", "whole"])
def test_f20_journal_is_mended(run: tuple[RunStore, list[Any]], kind: str) -> None:
    store, states = run
    path = store.path / "lineage.jsonl"
    whole = path.read_bytes()
    crlf = whole.replace(b"\n", b"\r\n")
    lines = whole.splitlines(keepends=True)
    broken = {
        "torn": whole[:-7],
        "rows missing": b"".join(lines[:4]),
        "empty": b"",
        "absent": b"",
        "CRLF": crlf,
        "CRLF torn": crlf[:-9],
        "zeros": whole + bytes(100),
        "whole": whole,
    }
    path.write_bytes(broken[kind])
    if kind == "absent":
        path.unlink()
    with store.lock():
        assert store.latest() == (2, states[2])
        assert path.read_bytes() == whole
        commit(store, 3)
    assert journal(store.path) == [row for g in range(4) for row in rows(g)]


@pytest.mark.parametrize(
    ("kind", "line"),
    [("garbage", 5), ("edited", 5), ("line lost", 5), ("line twice", 6), ("last twice", 10), ("more", 10)],
)
def test_f20_journal_damage_is_refused_by_line(run: tuple[RunStore, list[Any]], kind: str, line: int) -> None:
    store, states = run
    path = store.path / "lineage.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    broken = {
        "garbage": [*lines[:4], b"\xff garbage\n", *lines[5:]],
        "edited": [*lines[:4], lines[4].replace(b"g1-i1", b"g1-i7"), *lines[5:]],
        "line lost": [*lines[:4], *lines[5:]],
        "line twice": [*lines[:5], *lines[4:]],
        "last twice": [*lines, lines[-1]],
        "more": [*lines, b'{"event":"birth"}\n'],
    }
    path.write_bytes(b"".join(broken[kind]))
    with store.lock():
        with pytest.raises(RunError, match=rf"{path}: line {line} .*Move the file away"):
            store.latest()
        with pytest.raises(RunError, match=rf"line {line} "):
            commit(store, 3)
        path.rename(store.path / "lineage.old")  # the remedy
        assert store.latest() == (2, states[2])
    assert path.read_bytes() == whole


# --- F21: two drivers ---------------------------------------------------------------------------------------------

DRIVER = """
import sys
from gtl.population.store import RunStore
store = RunStore.open(sys.argv[1])
with store.lock():
    store.commit(3, {"blobs": []}, [{"id": "from the other"}])
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_f21_a_second_driver_is_refused_and_a_dead_one_is_not(run: tuple[RunStore, list[Any]]) -> None:
    store, states = run
    command = [sys.executable, "-c", DRIVER, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "locked\n"
            says = rf"in use by another driver \(process {other.pid} on "
            with pytest.raises(RunError, match=says) as caught, store.lock():
                pytest.fail("two drivers")
            assert caught.value.exit_code == 2
            assert RunStore.open(store.path).latest() == (3, {"blobs": []}), "reading is allowed"
        finally:
            other.kill()
    assert (store.path / "lock.json").exists(), "it died with the lock"
    with store.lock():
        assert store.latest() == (3, {"blobs": []})
        commit(store, 4)
        with pytest.raises(RunError, match="in use"), RunStore.open(store.path).lock():
            pytest.fail("two drivers in one process")
    assert not (store.path / "lock.json").exists()
    assert journal(store.path)[9] == {"id": "from the other"} and len(states) == 3


def test_f21_the_lock_is_freed_by_errors_and_knows_no_clock(
    run: tuple[RunStore, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = run
    with pytest.raises(ZeroDivisionError), store.lock():
        raise ZeroDivisionError
    monkeypatch.setattr("time.time", lambda: 0.0)  # the clock jumps back by decades
    for path in store.path.rglob("*"):
        os.utime(path, (2**32, 2**32))  # ... and every file is from the future
    with store.lock():
        commit(store, 3)
        with pytest.raises(RunError, match="in use"), RunStore.open(store.path).lock():
            pytest.fail("two drivers")
    assert store.latest() is not None
