"""What a generation has finished survives a kill; what does not verify is evaluated again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import job
from run_files import create

from gtl.genotype import Genotype
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.population.outcomes import FILE, RememberingEvaluator
from gtl.population.store import RunStore


class Counting:
    """Evaluates by putting one small blob a job; can stop after some, and fail some."""

    versions: Mapping[str, str] = {}

    def __init__(self, store: RunStore, stop_after: int = 99, failing: Mapping[str, Status] | None = None) -> None:
        self.store, self.stop_after, self.failing = store, stop_after, failing or {}
        self.evaluated: list[str] = []

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for number, one in enumerate(jobs):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.evaluated.append(one.individual)
            status = self.failing.get(one.individual, Status.OK)
            gene = self.store.blobs.put({"x": torch.full((3,), float(one.seed))}) if status is Status.OK else ""
            yield Outcome(one.individual, gene, Evaluation(status, fitness=0.25 if gene else 0.0, seconds=1.5))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(None, *args)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return create(tmp_path / "run")


def generation(number: int = 1, count: int = 4) -> list[Job]:
    genotype = Genotype.full({"conv1": 4})
    return [
        job(genotype, individual=f"g{number:04d}-i{n:04d}", generation=number, seed=100 * number + n)
        for n in range(count)
    ]


def stopped(store: RunStore, jobs: list[Job], after: int, **failing: Any) -> list[Outcome]:
    """Outcomes up to a stop."""
    found = []
    with pytest.raises(KeyboardInterrupt):
        for outcome in RememberingEvaluator(Counting(store, after, **failing), store).evaluate(jobs):
            found.append(outcome)
    return found


def resumed(store: RunStore, jobs: list[Job]) -> tuple[list[Outcome], list[str]]:
    """All outcomes of a new evaluator, and whom it really evaluated."""
    counting = Counting(store)
    return list(RememberingEvaluator(counting, store).evaluate(jobs)), counting.evaluated


def test_what_was_finished_is_not_evaluated_again(store: RunStore) -> None:
    jobs = generation()
    before = stopped(store, jobs, 2)
    after, evaluated = resumed(store, jobs)
    assert evaluated == [one.individual for one in jobs[2:]]
    assert after[:2] == before and [o.individual for o in after] == [one.individual for one in jobs]
    assert resumed(store, jobs) == (after, []), "all of it now"


def test_another_generation_or_another_job_starts_anew(store: RunStore) -> None:
    stopped(store, generation(1), 2)
    changed = [replace(one, seed=one.seed + 1) for one in generation(1)]
    assert resumed(store, changed)[1] == [one.individual for one in changed], "same names, other seeds"
    assert resumed(store, generation(2))[1] == [one.individual for one in generation(2)]
    assert resumed(store, generation(1))[1] == [one.individual for one in generation(1)], (
        "the file holds one generation"
    )


def test_what_may_have_been_the_machines_fault_gets_another_chance(store: RunStore) -> None:
    jobs = generation()
    names = [one.individual for one in jobs]
    failing = dict(zip(names, (Status.DIVERGED, Status.LOST, Status.TIMED_OUT, Status.CRASHED), strict=True))
    list(RememberingEvaluator(Counting(store, failing=failing), store).evaluate(jobs))
    after, evaluated = resumed(store, jobs)
    assert evaluated == names[1:] and after[0].evaluation.status is Status.DIVERGED


@pytest.mark.parametrize("damage", ["torn", "flipped", "no blob", "damaged blob", "nonsense", "empty", "CRLF"])
def test_what_does_not_verify_is_evaluated_again(store: RunStore, damage: str) -> None:
    jobs = generation()
    before = stopped(store, jobs, 3)
    path = store.path / FILE
    data = path.read_bytes()
    gone = {"torn": [2], "empty": [0, 1, 2], "CRLF": []}.get(damage, [1])
    if damage == "torn":
        path.write_bytes(data[:-20])
    elif damage == "flipped":
        lines = data.splitlines(keepends=True)
        path.write_bytes(lines[0] + lines[1].replace(b"0.25", b"0.99") + lines[2])
    elif damage == "nonsense":
        lines = data.splitlines(keepends=True)
        path.write_bytes(lines[0] + b"\xff\xfe {]\n\n" + lines[2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "CRLF":
        path.write_bytes(data.replace(b"\n", b"\r\n"))
    else:
        blob = store.blobs.path(before[1].gene)
        blob.unlink() if damage == "no blob" else blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    after, evaluated = resumed(store, jobs)
    assert evaluated == [jobs[n].individual for n in [*gone, 3]]
    assert {o.individual: o for o in after} == {o.individual: o for o in [*before, after[-1]]}, "the same results"


def test_a_call_is_passed_on(store: RunStore) -> None:
    assert RememberingEvaluator(Counting(store), store).call(lambda world, x: x + 1, 2) == 3
