"""Condensing: the best finalist becomes the learngene; a failed one never does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pico import gratings, merged, world

from gtl.errors import EvolutionError
from gtl.evolution.fitness import raw_score
from gtl.individual import Evaluation, Individual, Job, Outcome, Status
from gtl.learngene.records import shares
from gtl.life import World
from gtl.lineage import Lineage
from gtl.population.blobs import BlobStore
from gtl.population.condense import condense
from gtl.population.evaluator import AroundEvaluator, InProcessEvaluator
from gtl.population.founding import Ancestor
from gtl.population.manager import Manager


@dataclass
class Finished:
    """An evolution of random founders, in memory."""

    world: World
    manager: Manager
    genes: BlobStore
    evaluator: InProcessEvaluator
    rows: list[dict[str, Any]] = field(default_factory=list)

    def condensed(self, evaluator: Any) -> Any:
        lineage = Lineage.from_rows(self.rows)
        nobody = Ancestor(None, 0, {}, {"scratch": 0.25})
        return condense(self.manager, evaluator, self.genes, lineage, self.world, nobody)


def finished(**sections: Any) -> Finished:
    settings = {"founders": {"kind": "random"}, "evolution": {"population": 5, "litter": 2, "generations": 1}}
    settings["evolution"]["crossover"] = {"average_siblings": True}  # type: ignore[index]
    host = world(**merged(settings, sections))
    genes = BlobStore()
    run = Finished(host, Manager(host.config, host.layout, None, {}), genes, InProcessEvaluator(host, genes))
    while not run.manager.done:
        run.manager.tell(run.evaluator.evaluate(run.manager.ask()))
        run.rows += run.manager.rows
    return run


@pytest.fixture(scope="module")
def run() -> Finished:
    return finished()


def judged(run: Finished) -> list[Individual]:
    """All finalists with their evaluations."""
    found = []
    for individual, job in run.manager.finalists():
        (outcome,) = run.evaluator.evaluate([job])
        individual.evaluation, individual.gene = outcome.evaluation, outcome.gene
        found.append(individual)
    return found


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_best_finalist_becomes_the_learngene(exponent: float) -> None:
    run = finished(evolution={"score": {"size_exponent": exponent}})
    section = run.world.config.evolution.score
    finalists = judged(run)
    learngene = run.condensed(run.evaluator)
    scores = {i.id: raw_score(i, run.world.layout, section) for i in finalists}
    winners = [i for i in finalists if scores[i.id] == max(scores.values())]
    assert len(set(scores.values())) > 1 and len(finalists) > 5, "litters' averages compete, too"
    assert any(
        learngene.genotype == winner.genotype and run.genes.put(learngene.tensors) == winner.gene for winner in winners
    )
    assert learngene.provenance["winner"]["fitness"] == winners[0].evaluation.fitness  # type: ignore[union-attr]
    assert learngene.shares == shares(run.world.layout, learngene.genotype)
    assert learngene.provenance["images"] == {"ancestor": 0, "lives": 4 * 24, "total": 4 * 24}


class Sabotaged(AroundEvaluator):
    """An evaluator under which all but one of the jobs fail (or all)."""

    def __init__(self, evaluator: InProcessEvaluator, spared: str) -> None:
        super().__init__(evaluator)
        self.spared = spared

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for outcome in self._evaluator.evaluate(jobs):
            if outcome.individual == self.spared:
                yield outcome
            else:
                yield Outcome(outcome.individual, "", Evaluation(Status.TIMED_OUT, reason="too slow"))


def test_a_failed_finalist_is_not_chosen(run: Finished) -> None:
    worst = min(judged(run), key=lambda i: raw_score(i, run.world.layout, run.world.config.evolution.score))
    learngene = run.condensed(Sabotaged(run.evaluator, spared=worst.id))
    assert run.genes.put(learngene.tensors) == worst.gene
    with pytest.raises(EvolutionError, match=r"none of the \d+ finalists could be evaluated: too slow"):
        run.condensed(Sabotaged(run.evaluator, spared=""))


def test_an_evaluator_turns_errors_into_crashes_and_lets_the_runs_own_pass(run: Finished, tmp_path: Path) -> None:
    (_, job), *_ = run.manager.finalists()
    stranger = World(run.world.config, run.world.host, gratings(4, 2), run.world.val, run.world.compute)
    assert all(outcome.evaluation.ok for outcome in InProcessEvaluator(stranger, run.genes).evaluate([job]))

    class Faulty(BlobStore):
        def get(self, digest: str) -> Any:
            raise MemoryError("no room for 3 TB")

    (outcome,) = InProcessEvaluator(run.world, Faulty()).evaluate([job])
    assert outcome.gene == "" and outcome.evaluation.status is Status.CRASHED
    assert outcome.evaluation.reason == "MemoryError: no room for 3 TB"
    with pytest.raises(Exception, match="no gene tensors"):
        list(InProcessEvaluator(run.world, BlobStore()).evaluate([job]))
