"""Does anything that reads foreign bytes break? A million inputs that are nearly right, for everything that reads some.

python benchmarks/fuzz.py [--inputs 1000000] [--seed 0] [--minutes 30] [--out RECORD.json]      goes on where it stopped

Learngene files, blobs, configurations, strict YAML, --set, manifests, run.json and journals, read in memory by one process.
Engines: `mutation` changes real inputs and makes hashes right again, `hypothesis` draws them from a grammar, `atheris` (if
named in --engines; needs the extra `fuzz`) is led by coverage. An input must be accepted, or refused by gtl's own error, in
less than a second of CPU time, adding less than 64 MiB; what is accepted must be the same when it is written and read again.
Anything else is a failure: reduced, written into --folder, and told. The record counts how many inputs came to each stage of
what reads them, so that it shows how deep they reach.

Ends with status 1 if there are failures, 2 if asked for what cannot be done.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import hypothesis
from figure import circumstances, rounded, typed
from fuzz_changes import changed
from fuzz_kinds import KINDS, warm_up
from fuzz_seeds import seeds
from fuzz_strategies import STRATEGIES
from fuzz_watch import MIB, Kind, Outcome, Watch, limit_memory, memory

from gtl.seeds import derive

SHARES = {
    "learngene": 0.45, "blob": 0.10, "config": 0.12, "yaml": 0.08, "override": 0.05, "manifest": 0.10, "run.json": 0.02,
    "journal": 0.08,
}  # fmt: skip
ENGINES = {"mutation": 0.0, "hypothesis": 0.15, "atheris": 0.15}  # share of the inputs; mutation has what is left
BATCH = {"mutation": 1000, "hypothesis": 1000, "atheris": 20_000}  # inputs; the last one of a kind may be smaller
HEADROOM = 1 << 30  # bytes of address space beyond what the process has when it begins
TELL = 30.0  # seconds


class Batch(NamedTuple):
    """Inputs that are made one after the other: which ones follows from these four and the seed."""

    kind: str
    engine: str
    number: int
    size: int


@dataclass
class Tally:
    """What became of the inputs of one kind.

    Attributes:
        inputs: how many, by engine.
        ended: how many, by the stage that refused them, or accepted.
        slowest: CPU seconds of the slowest.
        growth: bytes of the one that memory grew most by.
        failures: failure -> how many.
    """

    inputs: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    growth: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, engine: str, outcome: Outcome) -> None:
        """Count one."""
        self.inputs[engine] += 1
        if outcome.failure:
            self.failures[outcome.failure] += 1
        else:
            self.ended[outcome.stage] += 1
        self.slowest, self.growth = max(self.slowest, outcome.seconds), max(self.growth, outcome.growth)

    def to_json(self, kind: Kind) -> dict[str, Any]:
        """As it stands in a record; `reached` adds up those that came to a stage or behind it."""
        ended = {stage: self.ended[stage] for stage in kind.order}
        left = sum(ended.values())
        reached = {}
        for stage, count in ended.items():
            reached[stage], left = left, left - count
        return {
            "inputs": dict(sorted(self.inputs.items())),
            "reached": reached,
            "slowest_ms": rounded(1000 * self.slowest),
            "most_growth_mib": rounded(self.growth / MIB),
            "failures": dict(self.failures),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Tally:
        """Inverse of `to_json`."""
        counts = list(found["reached"].values())
        ended = dict(zip(found["reached"], (a - b for a, b in zip(counts, [*counts[1:], 0], strict=True)), strict=True))
        inputs, failures = Counter(found["inputs"]), Counter(found["failures"])
        return cls(inputs, Counter(ended), found["slowest_ms"] / 1000, int(found["most_growth_mib"] * MIB), failures)


def plan(inputs: int, engines: Sequence[str]) -> list[Batch]:
    """All batches, so ordered that the first part of them is of every kind and engine in its share."""
    placed = []
    for kind, share in SHARES.items():
        total = round(inputs * share)
        sizes = {engine: round(total * ENGINES[engine]) for engine in engines if engine != "mutation"}
        sizes["mutation"] = total - sum(sizes.values())
        for engine, size in sizes.items():
            most = BATCH[engine]
            for number in range(-(-size // most)):
                placed.append(
                    ((number + 0.5) * most / size, Batch(kind, engine, number, min(most, size - number * most)))
                )
    return [batch for _, batch in sorted(placed)]


class Fuzzer:
    """Runs batches, and keeps what is to be told of them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.folder = folder
        self.tallies = {name: Tally() for name in KINDS}
        self.watch = Watch()

    def run(self, batch: Batch) -> None:
        """One batch. Only while the watch is on."""
        seed = derive(self.seed, "fuzz", *batch[:3])
        getattr(self, f"_{batch.engine}")(batch, seed, lambda data: self._show(batch, data))

    def _mutation(self, batch: Batch, seed: int, show: Callable[[bytes], None]) -> None:
        draw, real = Random(seed), seeds(batch.kind)
        for _ in range(batch.size):
            show(changed(batch.kind, draw.choice(real), draw))

    def _hypothesis(self, batch: Batch, seed: int, show: Callable[[bytes], None]) -> None:
        settled = hypothesis.settings(
            max_examples=batch.size,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.seed(seed)(settled(hypothesis.given(STRATEGIES[batch.kind])(show)))()

    def _atheris(self, batch: Batch, seed: int, show: Callable[[bytes], None]) -> None:
        """In a process of its own: libFuzzer takes one over for good. What fails there is judged here."""
        script = Path(__file__).with_name("fuzz_atheris.py")
        words = [sys.executable, str(script), batch.kind, str(batch.size), str(seed % 2**31)]
        found = json.loads(subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
        tally = self.tallies[batch.kind]
        tally.inputs["atheris"] += found["inputs"] - len(found["failed"])
        tally.ended.update(found["ended"])
        tally.slowest, tally.growth = max(tally.slowest, found["slowest"]), max(tally.growth, found["growth"])
        for data in found["failed"]:
            show(bytes.fromhex(data))

    def _show(self, batch: Batch, data: bytes) -> None:
        outcome = self.watch.show(KINDS[batch.kind], data)
        if outcome.failure:
            self._keep(batch.kind, outcome.failure, data)
        self.tallies[batch.kind].add(batch.engine, outcome)

    def _keep(self, kind: str, failure: str, data: bytes) -> None:
        """Write the first input that fails in this way: as it came, and reduced."""
        if failure in self.tallies[kind].failures:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{kind}-{derive(0, failure) % 10**8:08d}"
        (self.folder / f"{name}.txt").write_text(f"{kind}: {failure}\n", "utf-8")
        (self.folder / f"{name}.whole").write_bytes(data)
        (self.folder / f"{name}.reduced").write_bytes(self.watch.reduced(KINDS[kind], data, failure))

    def to_json(self) -> dict[str, Any]:
        """What became of all inputs."""
        return {
            "inputs": sum(tally.inputs.total() for tally in self.tallies.values()),
            "failures": sum(len(tally.failures) for tally in self.tallies.values()),
            "kinds": {name: tally.to_json(KINDS[name]) for name, tally in self.tallies.items()},
        }


def main(words: Sequence[str] | None = None) -> int:
    """Fuzz until all inputs were shown, or time is over."""
    given, command = _given(sys.argv[1:] if words is None else words)
    engines = given.engines.split(",")
    if reason := _impossible(engines, given.out, command):
        print(f"fuzz: {reason}", file=sys.stderr)
        return 2
    began, told = time.monotonic(), time.monotonic()
    fuzzer, batches = Fuzzer(given.seed, given.folder), plan(given.inputs, engines)
    before: dict[str, Any] = {"batches": 0, "cpu_seconds": 0.0}
    if given.out and given.out.exists():
        before = json.loads(given.out.read_text("utf-8"))
        fuzzer.tallies = {name: Tally.from_json(found) for name, found in before["kinds"].items()}
    warm_up()
    limit_memory(HEADROOM)
    done = before["batches"]
    record: dict[str, Any] = {}
    with fuzzer.watch.on():
        for batch in batches[done:]:
            if given.minutes is not None and time.monotonic() - began > 60 * given.minutes:
                break
            fuzzer.run(batch)
            done += 1
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                print(f"fuzz: {done} of {len(batches)} batches", file=sys.stderr)
    record = {
        "command": command,
        **circumstances(),
        "batches": done,
        "of": len(batches),
        "cpu_seconds": rounded(before["cpu_seconds"] + _cpu_seconds()),
        "peak_mib": rounded(memory().peak / MIB),
        **fuzzer.to_json(),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", "utf-8")
    return int(record["failures"] > 0)


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _given(words: Sequence[str]) -> tuple[argparse.Namespace, str]:
    """The options, and the command as a record holds it: what inputs depend on, not how long one may wait for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many, of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engines", default="mutation,hypothesis", help="comma-separated")
    parser.add_argument("--minutes", type=float, help="stop after so many; the same command goes on from --out")
    parser.add_argument("--out", type=Path, help="write a record here")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-failures"), help="for inputs that fail")
    given = parser.parse_args(words)
    same = ["--inputs", str(given.inputs), "--seed", str(given.seed), "--engines", given.engines]
    return given, typed("benchmarks/fuzz.py", [*same, "--out", str(given.out)])


def _impossible(engines: Sequence[str], out: Path | None, command: str) -> str:
    """Why it cannot be done; empty if it can."""
    if unknown := [engine for engine in engines if engine not in ENGINES]:
        return f"unknown engines {', '.join(unknown)}; there are {', '.join(ENGINES)}"
    if "atheris" in engines and importlib.util.find_spec("atheris") is None:
        return "the engine atheris needs the package of that name: pip install 'gtl[fuzz]'"
    if out and out.exists() and json.loads(out.read_text("utf-8")).get("command") != command:
        return f"{out} is the record of another command; give another name with --out"
    return ""


if __name__ == "__main__":
    sys.exit(main())
