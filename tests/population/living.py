"""Jobs that really live, in a run's store; evaluators that stop, shuffle, count; a pool without processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import job, random_genotype, stir

from gtl import engine
from gtl.config import Config
from gtl.individual import Job, Outcome, ParentGene
from gtl.life import World
from gtl.lineage import read_rows
from gtl.models import build
from gtl.population.evaluator import AroundEvaluator, Evaluator, InProcessEvaluator
from gtl.population.manager import Manager
from gtl.population.observer import Observer
from gtl.population.retry import Call
from gtl.population.store import RunStore
from gtl.surgery import gather


def generation(world: World, store: RunStore, lives: int, elites: int = 1, broken: Iterable[int] = ()) -> list[Job]:
    """Children that live, each of a parent of its own, and survivors that only meet the critic.

    Args:
        broken: numbers of children whose parents are not finite: they diverge.
    """
    jobs = []
    for number in range(lives + elites):
        network = stir(build(world.host, number), number)
        genotype = random_genotype(network.widths, number, share=0.5)
        tensors = gather(network.state_dict(), world.layout, genotype)
        if number in broken:
            tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in tensors.items()}
        parent = ParentGene(f"p{number}", store.blobs.put(tensors), genotype)
        name = f"g0001-i{number:04d}"
        jobs.append(job(genotype, (parent,), individual=name, seed=50 + number, lives=number < lives, task_seed=number))
    return jobs


def told(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """By individual, without measured times; each once."""
    found = {}
    for outcome in outcomes:
        assert outcome.individual not in found
        found[outcome.individual] = replace(outcome, evaluation=replace(outcome.evaluation, seconds=0.0))
    return found


class Watched(AroundEvaluator):
    """An evaluator that keeps what it was asked for, and can stop before a job, or give its outcomes in another order."""

    def __init__(self, evaluator: Evaluator, stop_after: int | None = None, shuffle: int | None = None) -> None:
        super().__init__(evaluator)
        self._left = stop_after
        self._shuffle = shuffle
        self.rounds: list[list[Job]] = []
        self.done: list[Job] = []

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        jobs = list(jobs)
        self.rounds.append(jobs)
        by_id = {one.individual: one for one in jobs}
        outcomes: Iterable[Outcome] = self._evaluator.evaluate(jobs)
        if self._shuffle is not None:
            outcomes = list(outcomes)
            random.Random(self._shuffle).shuffle(outcomes)
        for outcome in outcomes:
            if self._left is not None:
                if self._left == 0:
                    raise KeyboardInterrupt
                self._left -= 1
            self.done.append(by_id[outcome.individual])
            yield outcome


class LocalPool:
    """Runs calls in this process, the last first; what is in `lost` is lost."""

    def __init__(self, world: World, lost: Mapping[str, Any] | None = None) -> None:
        self.world, self.lost = world, lost or {}
        self.calls: list[Call] = []

    @property
    def facts(self) -> list[Mapping[str, str]]:
        return [{"torch": "here"}]

    def run(self, calls: Iterable[Call], fetch: Callable[[str], bytes]) -> Iterator[list[tuple[Call, Any]]]:
        for call in reversed(list(calls)):
            self.calls.append(call)
            blobs = [fetch(digest) for digest in call.blobs]
            yield [(call, self.lost.get(call.key) or call.function(self.world, *call.args, *blobs))]


def in_process(world: World, store: RunStore) -> InProcessEvaluator:
    return InProcessEvaluator(world, store.blobs)


class StoppedError(Exception):
    """What stops a run in the middle."""


class Stopping(Observer):
    """Stops a run at one moment; counts what it is told."""

    def __init__(self, moment: str = "") -> None:
        self.moment, self.asked_for, self.counts = moment, 0, list[tuple[int, int]]()

    def asked(self, jobs: Sequence[Job]) -> None:
        self.asked_for = len(jobs)
        self.counts.append((len(jobs), 0))

    def evaluated(self, outcome: Outcome) -> None:
        self.counts[-1] = (self.counts[-1][0], self.counts[-1][1] + 1)
        if outcome.individual == self.moment:
            raise StoppedError

    def generation(self, manager: Manager) -> None:
        assert self.counts[-1][0] == self.counts[-1][1], "every job is told once"


def evolved_with_stops(config: Config, run: Path, moments: Iterable[str]) -> None:
    """Evolve in one process, stopped after each of these individuals and resumed, to the end."""
    for number, moment in enumerate(moments):
        with pytest.raises(StoppedError):
            if number == 0:
                engine.evolve(config, run, workers=1, observer=Stopping(moment))
            else:
                engine.resume(run, workers=1, observer=Stopping(moment))
    engine.resume(run, workers=1)


def journal(run: Path) -> list[dict[str, Any]]:
    """Rows without measured times."""
    return [{key: value for key, value in row.items() if key != "time"} for row in read_rows(run / "lineage.jsonl")]
