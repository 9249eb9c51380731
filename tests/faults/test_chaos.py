"""Kills of the driver at random times and right after random storage steps (F4, F16), and that the benchmark sees a loss."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from tiny_run import tiny

from gtl import engine

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from chaos import Chaos, History, check, differences, main
from chaos_process import Driver, Event, kind, place, remaining


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Tests work on copies."""
    return engine.evolve(tiny(), tmp_path_factory.mktemp("chaos") / "run").run


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))


def driver(*events: tuple[str, str], killed: float | None = None) -> Driver:
    """One that has told this, an event a second."""
    told = [Event(float(at), what, about) for at, (what, about) in enumerate(events, start=1)]
    return Driver(Path("run"), Path("told"), events=told, killed=killed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("by_step", "seed"), [(0.0, 1), (1.0, 2)])
def test_runs_killed_anywhere_end_as_if_nobody_had_killed_them(tmp_path: Path, by_step: float, seed: int) -> None:
    chaos = Chaos(tmp_path, workers=1, seed=seed, by_step=by_step)
    chaos.measure()
    chaos.kill(3)
    found = chaos.summary()
    assert chaos.problems == [] and found["problems"] == []
    assert found["kills"]["identical"] == found["kills"]["delivered"] == len(chaos.kills) == 3
    assert found["runs"]["finished"] == found["runs"]["identical"] == len(chaos.identical) >= 1
    assert found["evaluations"]["repeated_though_finished"] == 0
    assert found["evaluations"]["most_lost_by_one_kill"] <= 1
    assert [bool(kill.step) for kill in chaos.kills] == [bool(by_step)] * 3
    assert sum(found["kills"]["after_steps"].values()) == (3 if by_step else 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_writes_a_record_without_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("sys.argv", ["chaos.py", "--kills", "1", "--out", str(tmp_path / "record.json")])
    assert main() == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["kills"]["delivered"] == record["kills"]["identical"] == 1 and record["problems"] == []
    assert str(tmp_path) not in json.dumps(record) and str(Path.cwd()) not in json.dumps(record)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("1/1 identical, in ") and "evaluations repeated though finished: 0" in said
    assert not list(tmp_path.glob("chaos-*")), "nothing is left behind"


def test_whatever_differs_is_seen(done: Path, copy: Path) -> None:
    assert differences(copy, done) == []
    gene = copy / "learngene.safetensors"
    data = bytearray(gene.read_bytes())
    data[-1] ^= 1
    gene.write_bytes(data)
    assert differences(copy, done) == ["the learngene differs"]
    lines = (copy / "lineage.jsonl").read_text().splitlines(keepends=True)
    (copy / "lineage.jsonl").write_text("".join(lines[:-1]))
    (copy / "blobs" / "x.tmp.0123456789ab").write_text("half")
    (copy / "quarantine").mkdir()
    assert differences(copy, done) == [
        "the learngene differs",
        "the journal differs",
        "unfinished files are left: ['x.tmp.0123456789ab']",
        "files of one and not of the other: ['quarantine']",
    ]


def test_a_lost_generation_is_seen(copy: Path) -> None:
    assert check(copy, History(committed=3)) == (3, "")
    assert check(copy, History(committed=4)) == (3, "generation 4 was committed, and 3 is the newest that loads")
    (copy / "gen-000003" / "manifest.json").write_text("{}")
    assert check(copy, History(committed=2)) == (2, "generation 3 is visible and not whole")
    (copy / "run.json").unlink()
    assert check(copy, History()) == (-1, ""), "a run that has not begun"
    assert check(copy, History(committed=0)) == (-1, "run.json is gone")


def test_an_evaluation_that_is_made_again_is_seen(tmp_path: Path) -> None:
    chaos, history = Chaos(tmp_path, workers=1, seed=0), History()
    killed = driver(("begun", ""), ("asked", "0 2"), ("began", "a"), ("finished", "a ok"), ("began", "b"), killed=5.5)
    assert (killed.begun, killed.finished, killed.seconds_lost) == (["a", "b"], {"a"}, 1.5)
    chaos._judge_resume(killed, history, 1)
    chaos._judge_resume(driver(("begun", ""), ("asked", "0 2"), ("finished", "a ok"), ("began", "b")), history, 1)
    assert chaos.problems == [], "what was under way is made again"
    chaos._judge_resume(driver(("begun", ""), ("asked", "0 2"), ("began", "a")), history, 1)
    assert chaos.problems == ["run 1: 1 evaluations were finished, and were made again"]


def test_an_ancestor_that_is_trained_again_is_seen(tmp_path: Path) -> None:
    chaos, history = Chaos(tmp_path, workers=1, seed=0), History()
    first = driver(
        ("begun", ""), ("message", "ancestor: 16 steps of 21 images"), ("message", "ancestor: step 8 of 16, 1 s")
    )
    again = driver(("begun", ""), ("message", "ancestor: going on from step 8 of 16"))
    assert (first.trains_from, first.trained, again.trains_from, again.trained) == (0, 8, 8, 0)
    for one in (first, again, driver(("begun", ""), ("asked", "0 2"))):
        chaos._judge_resume(one, history, 1)
    assert chaos.problems == []
    chaos._judge_resume(first, history, 1)
    assert chaos.problems == ["run 1: the ancestor's training went on from step 0, and 8 were saved"]


def test_what_was_under_way_is_told_apart() -> None:
    told = [("begun", ""), ("message", "ancestor: 16 steps of 21 images"), ("asked", "2 1"), ("finished", "a ok")]
    told += [("generation", "2"), ("asked", "-1 1"), ("finished", "b ok"), ("step", "renamed learngene.safetensors")]
    phases = [driver(*told[:count]).phase for count in range(1, len(told) + 1)]
    assert phases == [
        "start", "ancestor", "generation 2 (lives)", "generation 2 (commit)", "between generations", "finalists",
        "learngene", "end",
    ]  # fmt: skip


def test_steps_still_to_come_follow_the_last_one_that_is_known() -> None:
    steps = ["created lock.json", "created a", "wrote outcomes.jsonl", "created b", "wrote outcomes.jsonl"]
    steps += ["created c", "wrote outcomes.jsonl"]
    assert place(steps, []) == -1 and place(steps, ["wrote outcomes.jsonl"]) == -1
    assert remaining(steps, ["created a", "wrote outcomes.jsonl", "created b", "created lock.json"]) == [
        ("wrote outcomes.jsonl", 1), ("created c", 1), ("wrote outcomes.jsonl", 2), ("created lock.json", 1),
    ]  # fmt: skip
    blob = "5" * 64
    assert kind(f"linked {blob}.safetensors") == "linked BLOB.safetensors"
    assert [kind(f"synced folder {name}") for name in ("5a", "gen-000012", "run")] == [
        "synced folder of a blob", "synced folder gen-N", "synced folder run",
    ]  # fmt: skip
