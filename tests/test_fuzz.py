"""Fuzzing: a few seconds of it, that it sees what it must not miss, and that it goes on where it stopped (F32)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import fuzz
from fuzz_changes import CHANGES, changed
from fuzz_kinds import KINDS
from fuzz_seeds import seeds
from fuzz_strategies import STRATEGIES
from fuzz_watch import ACCEPTED, BrokenPromiseError, Kind, Watch

from gtl.errors import LearngeneError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
INPUTS = 1500
RARE = "length of the records"  # a gene that was read and would not fit in a file when written: it takes a long one


def test_f32_many_inputs_break_nothing(tmp_path: Path) -> None:
    words = ["--inputs", str(INPUTS), "--seed", "7", "--out", str(tmp_path / "record.json")]
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), *words, "--folder", str(tmp_path / "failures")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "record.json").read_text()) and not (tmp_path / "failures").exists()
    assert record["inputs"] >= INPUTS * 0.99 and record["failures"] == 0 and record["batches"] == record["of"]
    assert set(record["kinds"]) == set(KINDS) == set(CHANGES) == set(STRATEGIES) == set(fuzz.SHARES)
    for name, found in record["kinds"].items():
        assert set(found["inputs"]) == {"mutation", "hypothesis"}
        assert next(iter(found["reached"].values())) == sum(found["inputs"].values()), "every input came to a stage"
        assert found["slowest_ms"] < 1000 and found["most_growth_mib"] < 64
        assert found["reached"][ACCEPTED] > 0, f"nothing of {name} was accepted"
        assert all(count > 0 for stage, count in found["reached"].items() if stage != RARE), (name, found["reached"])
    assert fuzz.main([*words[:3], "8", *words[4:]]) == 2, "another seed's record is not gone on with"


def test_real_inputs_are_accepted() -> None:
    with Watch().on() as watch:
        for name, kind in KINDS.items():
            for data in seeds(name):
                assert watch.show(kind, data).stage == ACCEPTED, (name, data[:200])


def test_the_same_seed_makes_the_same_inputs_also_in_parts(tmp_path: Path) -> None:
    engines = ["mutation", "hypothesis"]
    batches = fuzz.plan(200, engines)
    assert sum(batch.size for batch in batches) == 200 and batches == fuzz.plan(200, engines)
    million = fuzz.plan(1_000_000, engines)
    assert {batch.kind for batch in million[: len(million) // 10]} == set(KINDS), "a part of it is a part of every kind"
    whole, parts = fuzz.Fuzzer(3, tmp_path), fuzz.Fuzzer(3, tmp_path)
    with whole.watch.on():
        for batch in batches:
            whole.run(batch)
    with parts.watch.on():
        for batch in batches[:7]:
            parts.run(batch)
    told = json.loads(json.dumps(parts.to_json()))
    parts = fuzz.Fuzzer(3, tmp_path)
    parts.tallies = {name: fuzz.Tally.from_json(found) for name, found in told["kinds"].items()}
    with parts.watch.on():
        for batch in batches[7:]:
            parts.run(batch)
    assert [plain(fuzzer.to_json()) for fuzzer in (parts, parts)] == [
        plain(fuzzer.to_json()) for fuzzer in (whole, whole)
    ]
    assert not list(tmp_path.iterdir())


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """Without what is measured."""
    return {
        name: {key: kind[key] for key in ("inputs", "reached", "failures")} for name, kind in record["kinds"].items()
    }


def test_time_is_kept_to_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "limit_memory", lambda headroom: None)  # this process has more tests to run
    words = ["--inputs", "100", "--out", str(tmp_path / "record.json"), "--folder", str(tmp_path)]
    assert fuzz.main([*words, "--minutes", "0"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["batches"] == first["inputs"] == 0 < first["of"]
    assert fuzz.main(words) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["batches"] == second["of"] and second["inputs"] == 100 and second["command"] == first["command"]


# --- what it must not miss -----------------------------------------------------------------------------------------


def raises(data: bytes) -> None:
    if b"BOOM" in data:
        raise KeyError("BOOM")
    raise LearngeneError("no")


def loops(data: bytes) -> None:
    until = time.process_time() + 5
    while b"loop" in data and time.process_time() < until:
        pass


def swallows(data: bytes) -> None:
    with suppress(Exception):  # what is tested may do this
        loops(data)


def lies(data: bytes) -> None:
    if data:
        raise BrokenPromiseError("another")


def chatters(data: bytes) -> None:
    raise LearngeneError("x" * 100_000)


@pytest.mark.parametrize(
    ("read", "data", "failure"),
    [
        (raises, b"xxxxBOOMyyyy", "KeyError at test_fuzz.py:raises"),
        (raises, b"xxxx", "refused at no known stage, at test_fuzz.py:raises"),
        (loops, b"loop", "more than 0.05 s at test_fuzz.py:loops"),
        (swallows, b"loop", "more than 0.05 s at test_fuzz.py:loops"),
        (lies, b"x", "BrokenPromiseError at test_fuzz.py:lies"),
        (chatters, b"x", "a message of more than 50000 characters at test_fuzz.py:chatters"),
    ],
)
def test_it_sees(read: Any, data: bytes, failure: str) -> None:
    with Watch(seconds=0.05).on() as watch:
        assert watch.show(Kind("broken", read, (LearngeneError,), {"chatters": "talk"}), data).failure == failure


def test_it_reduces_what_fails_and_writes_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Kind("journal", raises, (LearngeneError,), {})
    with Watch().on() as watch:
        assert watch.reduced(broken, bytes(500) + b"BOOM" + bytes(300), "KeyError at test_fuzz.py:raises") == b"BOOM"
    monkeypatch.setitem(KINDS, "journal", broken)
    monkeypatch.setattr(fuzz, "changed", lambda kind, data, draw: data + b"BOOM")
    fuzzer = fuzz.Fuzzer(0, tmp_path / "failures")
    with fuzzer.watch.on():
        fuzzer.run(fuzz.Batch("journal", "mutation", 0, 5))
    assert fuzzer.to_json()["kinds"]["journal"]["failures"] == {"KeyError at test_fuzz.py:raises": 5}
    (reduced,) = (tmp_path / "failures").glob("*.reduced")
    assert reduced.read_bytes() == b"BOOM" and len(list((tmp_path / "failures").iterdir())) == 3


MEMORY = """
import mmap, sys
sys.path.append(sys.argv[1])
from fuzz_watch import Kind, Watch, limit_memory
def maps(data):
    with open(sys.argv[2], "r+b") as file:
        mapped.append(mmap.mmap(file.fileno(), 0))
    sum(mapped[-1][::4096])
mapped = []
with Watch().on() as watch:
    print(watch.show(Kind("k", maps, (), {}), b"").failure or "a file is no memory of the input's")
    print(watch.show(Kind("k", lambda data: bytearray(b"x") * (100 << 20), (), {}), b"").failure)
    limit_memory(32 << 20)
    print(watch.show(Kind("k", lambda data: bytearray(1 << 30), (), {}), b"").failure)
"""


def test_it_sees_memory(tmp_path: Path) -> None:
    (tmp_path / "library").write_bytes(bytes(100 << 20))
    words = [sys.executable, "-c", MEMORY, str(BENCHMARKS), str(tmp_path / "library")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "a file is no memory of the input's", "more than 64 MiB", "MemoryError at <string>:<lambda>",
    ]  # fmt: skip


def test_changes_keep_hashes_right_so_that_inputs_reach_deep() -> None:
    draw, kind = Random(1), KINDS["learngene"]
    with Watch().on() as watch:
        stages = [
            watch.show(kind, changed("learngene", draw.choice(seeds("learngene")), draw)).stage for _ in range(300)
        ]
    deep = kind.order[kind.order.index("groups") :]
    assert sum(stage in deep for stage in stages) > 40


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="the extra 'fuzz' is not installed")
def test_inputs_that_coverage_leads_to(tmp_path: Path) -> None:
    script = [sys.executable, str(BENCHMARKS / "fuzz_atheris.py"), "manifest", "500", "1"]
    found = json.loads(subprocess.run(script, capture_output=True, text=True, check=True, timeout=200).stdout)
    assert found["inputs"] == 500 and not found["failed"] and sum(found["ended"].values()) == 500


def test_unknown_engines_are_refused() -> None:
    assert fuzz.main(["--engines", "mutation,luck"]) == 2
