"""The run directory: generations are whole or absent, whatever the moment of a kill and whatever the disk does."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from commands import gtl
from run_files import KilledError, commit, create, journal, leftovers, rows, tensors

from gtl import storage
from gtl.errors import LearngeneError, RunError, StorageError
from gtl.lineage import read_rows
from gtl.population.store import BlobStore, RunStore

# --- blobs --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return (
        BlobStore() if request.param == "memory" else BlobStore(tmp_path / "blobs" / "sha256", tmp_path / "quarantine")
    )


def test_blobs_come_back_bit_for_bit(blobs: BlobStore) -> None:
    kept = {**tensors(1), "n": torch.tensor(7), "x": torch.tensor([float("nan"), -0.0, 1e-45])}
    digest = blobs.put(kept)
    assert digest in blobs and len(digest) == 64
    found = blobs.get(digest)
    assert set(found) == set(kept)
    for name, tensor in kept.items():
        assert found[name].shape == tensor.shape and found[name].numpy().tobytes() == tensor.numpy().tobytes()
    found["n"].zero_()
    assert blobs.get(digest)["n"] == 7, "what comes out is a copy"


def test_equal_tensors_are_one_blob(blobs: BlobStore) -> None:
    first = tensors(1)
    strided = {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in reversed(first.items())}
    assert blobs.put(first) == blobs.put(strided) == blobs.put(first)
    assert blobs.put(tensors(2)) != blobs.put(first)
    assert blobs.prune(keep=()) == 0, "nothing put since the last commit is pruned"


def test_unknown_and_hostile_digests(blobs: BlobStore) -> None:
    blobs.put(tensors(1))
    for digest in ("0" * 64, "../../run.json", "", "A" * 64, 5):
        assert digest not in blobs
    for digest in ("0" * 64, "../../run.json"):
        with pytest.raises(RunError):
            blobs.get(digest)
    with pytest.raises(LearngeneError, match="Bad Name"):
        blobs.put({"Bad Name": torch.ones(1)})


def test_prune_keeps_what_is_named(blobs: BlobStore) -> None:
    a, b = blobs.put(tensors(1)), blobs.put(tensors(2))
    blobs.committed()
    c = blobs.put(tensors(3))
    assert blobs.prune(keep={a}) == 1
    assert (a in blobs, b in blobs, c in blobs) == (True, False, True)


def test_a_blob_is_named_by_its_file(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    digest = blobs.put(tensors(1))
    path = tmp_path / "blobs" / digest[:2] / f"{digest}.safetensors"
    assert path == blobs.path(digest) and hashlib.sha256(path.read_bytes()).hexdigest() == digest
    with pytest.raises(RunError):
        BlobStore().path(digest)


def test_a_damaged_blob_is_set_aside_and_can_be_put_again(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs", tmp_path / "quarantine")
    digest = blobs.put(tensors(1))
    for times in (1, 2):
        blobs.path(digest).write_bytes(b"x")
        with pytest.raises(RunError, match=r"damaged .* moved to"):
            blobs.get(digest)
        assert digest not in blobs and len(list((tmp_path / "quarantine").iterdir())) == times
        assert blobs.put(tensors(1)) == digest
    blobs.path(digest).write_bytes(b"y")
    blobs.put(tensors(1))
    assert torch.equal(blobs.get(digest)["conv1.bias"], tensors(1)["conv1.bias"])
    assert len(list((tmp_path / "quarantine").iterdir())) == 3


# --- the ordinary life of a run -----------------------------------------------------------------------------------


def test_commit_and_open_again(tmp_path: Path) -> None:
    store = create(tmp_path / "deep" / "run")
    assert store.latest() is None and (store.path / "config.yaml").read_text() == "seed: 1\n"
    with store.lock():
        states = [commit(store, generation) for generation in (0, 1, 5)]
    again = RunStore.open(store.path)
    assert again.info == store.info and again.info["format"] == "1.0" and again.info["versions"] == {"torch": "2.15"}
    latest = again.latest()
    assert latest == (5, states[-1]) and latest is not None
    assert list(latest[1]["population"]) == ["z", "a"], "the order of keys is part of a state"
    assert journal(store.path) == [row for g in (0, 1, 5) for row in rows(g)] == read_rows(store.path / "lineage.jsonl")
    assert list(journal(store.path)[0]) == list(rows(0)[0])
    with again.lock():
        assert again.latest() == latest
        commit(again, 6)
    assert (store.path / "gen-000005").is_dir() and not leftovers(store.path)


def test_equal_runs_have_equal_generations(tmp_path: Path) -> None:
    stores = [create(tmp_path / name) for name in "ab"]
    for store in stores:
        with store.lock():
            commit(store, 0)
            commit(store, 1)
    manifests = [(store.path / "gen-000001" / "manifest.json").read_bytes() for store in stores]
    assert manifests[0] == manifests[1]
    parent = hashlib.sha256((stores[0].path / "gen-000000" / "manifest.json").read_bytes()).hexdigest()
    assert json.loads(manifests[0])["parent"] == parent


def test_commit_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    store = create(tmp_path / "run")
    with pytest.raises(RunError, match="without the lock"):
        store.commit(0, {}, [])
    for act in (store.sweep, lambda: store.prune(1)):
        with pytest.raises(RunError, match="without the lock"):
            act()
    with store.lock():
        commit(store, 3)
        for generation in (2, 3):
            with pytest.raises(RunError, match=rf"generation {generation} is committed already \(the last is 3\)"):
                store.commit(generation, {}, [])
        with pytest.raises(RunError, match="never put"):
            store.commit(4, {"blobs": ["0" * 64]}, [])
        with pytest.raises(ValueError, match="JSON"):
            store.commit(4, {"x": float("nan")}, [])
        with pytest.raises(ValueError, match="JSON"):
            store.commit(4, {}, [{"x": float("inf")}])
        (store.path / "gen-000004").mkdir()
        (store.path / "gen-000004" / "mine.txt").write_text("x")
        with pytest.raises(StorageError, match="gen-000004 is there already"):
            store.commit(4, {}, [])
        assert (store.path / "gen-000004" / "mine.txt").exists()
    assert store.latest() is not None and not leftovers(store.path)


def test_f18_create_refuses_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        create(tmp_path / "file")
    with pytest.raises(StorageError, match="Not a directory"):
        create(tmp_path / "file" / "run")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"not empty \(notes.txt\)"):
        create(tmp_path / "used")
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty")
    with pytest.raises(RunError, match="not empty"):
        create(tmp_path / "empty")


def test_f22_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match="not a run directory"):
            RunStore.open(path)
    store = create(tmp_path / "run")
    good = (store.path / "run.json").read_text()
    for text, says in [
        (good.replace('"1.0"', '"2.0"'), r"run format 2\.0; this gtl reads 1\.x"),  # F22
        (good[:-9], "damaged"),
        ("[]", "damaged"),
        ('{"format": "1.0"}', "lacks"),
        (good.replace('"versions": {', '"versions": [], "more": {'), r"lacks \['versions'\]"),
        (good.replace('"1.0"', '{"a": 1}'), "run format"),
    ]:
        (store.path / "run.json").write_text(text)
        with pytest.raises(RunError, match=says):
            RunStore.open(store.path)
    (store.path / "run.json").write_text(good.replace('"1.0"', '"1.9"'))
    RunStore.open(store.path)


def test_f22_a_run_of_a_newer_format_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By every command that reads or goes on with a run."""
    store = create(tmp_path / "run")
    with store.lock():
        commit(store, 0)
    (store.path / "run.json").write_text((store.path / "run.json").read_text().replace('"1.0"', '"2.0"'))
    before = {path: path.read_bytes() for path in sorted(store.path.rglob("*")) if path.is_file()}
    for words in (["resume", store.path], ["status", store.path], ["watch", store.path]):
        assert gtl(*words) == 2, words
        assert "run format 2.0; this gtl reads 1.x" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sorted(store.path.rglob("*")) if path.is_file()} == before


def test_f22_another_config_and_other_versions(tmp_path: Path) -> None:
    store = create(tmp_path / "run")
    store.check_config("c" * 64)
    with pytest.raises(RunError, match=r"another config: it has c{64}, this one is d{64}.*config\.yaml"):
        store.check_config("d" * 64)
    assert store.version_changes({"torch": "2.15"}) == []
    assert store.version_changes({"torch": "3.0", "numpy": "2"}) == [
        "numpy was absent when the run began and is 2 now",
        "torch was 2.15 when the run began and is 3.0 now",
    ]
    with store.lock():
        commit(store, 0)
    info = json.loads((store.path / "run.json").read_text())
    (store.path / "run.json").write_text(json.dumps({**info, "config_hash": "e" * 64}))
    with pytest.raises(RunError, match=r"no whole generation left .*another generation or config"):
        RunStore.open(store.path).latest()


def test_prune_leaves_what_kept_generations_need(tmp_path: Path) -> None:
    store = create(tmp_path / "run")
    with store.lock():
        states = [commit(store, generation) for generation in range(5)]
        named = store.blobs.put(tensors(50))
        commit(store, 5)
        (store.path / "ancestor.json").write_text(json.dumps({"gene": named}))
        assert store.prune(2, referenced={states[1]["blobs"][0]}) == 3
        assert store.prune(2) == 1 and store.prune(2) == 0
        assert named in store.blobs
        with pytest.raises(ValueError, match="keep_last"):
            store.prune(0)
        assert store.latest() == (5, store.latest()[1])  # type: ignore[index]
        (store.path / "gen-000005" / "state.json").write_text("{}")
        assert store.latest() == (4, states[4])
        commit(store, 5)
        (store.path / "gen-000005" / "manifest.json").write_text("{}")
        with pytest.raises(RunError, match="nothing pruned"):
            store.prune(1)


def test_sweep_takes_only_our_leftovers(tmp_path: Path) -> None:
    store = create(tmp_path / "run")
    mine = [store.path / "notes.tmp.txt", store.path / "x.tmp.old"]
    for path in mine:
        path.write_text("mine")
    (store.path / "gen-000001.tmp.0123456789ab").mkdir()
    (store.path / "gen-000001.tmp.0123456789ab" / "state.json").write_text("{")
    (store.path / "run.json.tmp.0123456789ab").write_text("{")
    with store.lock():
        assert sorted(leftovers(store.path)) == sorted(map(str, mine))


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o007)
    try:
        store = create(tmp_path / "run")
        with store.lock():
            state = commit(store, 0)
    finally:
        os.umask(before)
    files = [store.path / "run.json", store.path / "gen-000000" / "state.json", store.blobs.path(state["blobs"][0])]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o660}


# --- F16: a kill at any point -------------------------------------------------------------------------------------


def test_f16_a_kill_between_any_two_steps_leaves_a_whole_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of them; the order of steps is what counts
    steps: list[str] = []
    store = create(tmp_path / "count")
    with store.lock():
        commit(store, 0)
        monkeypatch.setattr(storage, "fault", steps.append)
        expected = commit(store, 1)
    assert len(steps) > 15 and steps[-1] == "synced lineage.jsonl"
    outcomes = []
    for kill_at in range(len(steps)):
        monkeypatch.setattr(storage, "fault", None)
        store = create(tmp_path / str(kill_at))
        countdown = iter(range(len(steps)))

        def fault(name: str, countdown: object = countdown, kill_at: int = kill_at) -> None:
            if next(countdown) == kill_at:  # type: ignore[call-overload]
                raise KilledError(name)

        with store.lock():
            before = commit(store, 0)
            monkeypatch.setattr(storage, "fault", fault)
            with pytest.raises(KilledError):
                commit(store, 1)
            monkeypatch.setattr(storage, "fault", None)
        reader = RunStore.open(store.path).latest()
        again = RunStore.open(store.path)
        with again.lock():
            latest = again.latest()
            assert latest == reader and latest in ((0, before), (1, expected)), steps[kill_at]
            assert journal(store.path) == [row for g in range(latest[0] + 1) for row in rows(g)], steps[kill_at]
            assert not leftovers(store.path)
            for digest in latest[1]["blobs"]:
                again.blobs.get(digest)
            if latest[0] == 0:
                assert commit(again, 1) == expected
            commit(again, 2)
        outcomes.append(latest[0])
    assert outcomes == sorted(outcomes) and set(outcomes) == {0, 1}
    whole = [(tmp_path / str(k) / "gen-000001" / "manifest.json").read_bytes() for k in range(len(steps))]
    assert len(set(whole)) == 1, "a resumed run has the same generations, bit for bit"


def test_f16_a_kill_while_a_run_is_made_or_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    steps: list[str] = []
    monkeypatch.setattr(storage, "fault", steps.append)
    create(tmp_path / "count")
    for kill_at in range(len(steps)):
        countdown = iter(range(len(steps)))

        def fault(name: str, countdown: object = countdown, kill_at: int = kill_at) -> None:
            if next(countdown) == kill_at:  # type: ignore[call-overload]
                raise KilledError(name)

        monkeypatch.setattr(storage, "fault", fault)
        with pytest.raises(KilledError):
            create(tmp_path / str(kill_at))
        try:
            RunStore.open(tmp_path / str(kill_at))
        except RunError as error:
            assert "not a run directory" in str(error)
    for kill_at in range(12):  # stepping back from a damaged generation, killed on the way
        monkeypatch.setattr(storage, "fault", None)
        store = create(tmp_path / f"mend{kill_at}")
        with store.lock():
            before = commit(store, 0)
            commit(store, 1)
        (store.path / "gen-000001" / "lineage.jsonl").write_text("damaged\n")
        countdown = iter(range(100))
        with pytest.raises(KilledError), store.lock():
            monkeypatch.setattr(storage, "fault", lambda name, c=countdown, k=kill_at: _kill(name, next(c) == k))
            store.latest()
            raise KilledError("done before")
        monkeypatch.setattr(storage, "fault", None)
        with store.lock():
            assert store.latest() == (0, before)
            assert journal(store.path) == rows(0)
            commit(store, 1)
        assert (store.path / "quarantine" / "gen-000001" / "lineage.jsonl").read_text() == "damaged\n"


def _kill(name: str, now: bool) -> None:
    if now:
        raise KilledError(name)
