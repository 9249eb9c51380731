"""What travels between the manager and the evaluators: plain values, never NaN."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from typing import Any

import pytest

from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Individual, Job, Outcome, ParentGene, Status

GENOTYPE = Genotype({"a": ChannelMask(4, [0, 3]), "b": ChannelMask(2, [1])})
GOOD = Evaluation(Status.OK, 0.5, {"accuracy": 0.5, "share": 0.25}, images=128, seconds=1.5)
BAD = Evaluation(Status.TIMED_OUT, reason="took 3 s, 2 s were allowed")


def strict(document: Any) -> Any:
    """Through JSON that has no NaN and no infinity."""
    return json.loads(json.dumps(document, allow_nan=False))


@pytest.mark.parametrize("fitness", [math.nan, math.inf, -math.inf])
def test_a_fitness_is_finite(fitness: float) -> None:
    with pytest.raises(ValueError, match="as a status instead"):
        Evaluation(Status.OK, fitness)
    with pytest.raises(ValueError, match="not all finite"):
        Evaluation(Status.OK, 0.5, {"fine": 1.0, "loss": fitness})


def test_only_ok_is_ok() -> None:
    assert [status for status in Status if Evaluation(status).ok] == [Status.OK]
    assert {status.value for status in Status} == {"ok", "diverged", "crashed", "timed_out", "lost"}
    with pytest.raises(ValueError, match="unknown"):
        Status("unknown")


@pytest.mark.parametrize("evaluation", [GOOD, BAD, Evaluation(Status.CRASHED, reason="x"), Evaluation(Status.DIVERGED)])
def test_evaluations_round_trip(evaluation: Evaluation) -> None:
    assert Evaluation.from_json(strict(evaluation.to_json())) == evaluation
    assert pickle.loads(pickle.dumps(evaluation)) == evaluation
    assert isinstance(Evaluation.from_json(evaluation.to_json()).status, Status)


def test_individuals_round_trip() -> None:
    fresh = Individual("g0-i0", 0, GENOTYPE)
    lived = Individual("g1-i0", 1, GENOTYPE, ("g0-i0",), "ab" * 32, "g1-l0", GOOD, score=0.75, credit=0.125)
    failed = Individual("g1-i1", 1, GENOTYPE, ("g0-i0",), "", "g1-l0", BAD)
    for individual in (fresh, lived, failed):
        assert Individual.from_json(strict(individual.to_json())) == individual
        assert pickle.loads(pickle.dumps(individual)) == individual
    assert [individual.ok for individual in (fresh, lived, failed)] == [False, True, False]
    assert fresh.score == failed.score == -math.inf and failed.to_json()["score"] is None


def test_jobs_round_trip() -> None:
    parents = (ParentGene("a", "ab" * 32, GENOTYPE), ParentGene("b", "cd" * 32, GENOTYPE))
    for given in ((), parents):
        job = Job("g1-i0", 1, GENOTYPE, given, True, 2**62 + 1, 3, 2, 5)
        assert Job.from_json(strict(job.to_json())) == job
    turned = Genotype(dict(reversed(list(GENOTYPE.items()))))
    job = Job("g1-i0", 1, turned, (ParentGene("a", "ab" * 32, turned),), True, 1, 3, 2, 5)
    sent = Job.from_json(json.loads(job.text))
    assert sent == job and list(sent.genotype) == list(turned) == list(sent.parents[0].genotype)


def test_deepcopy_of_an_individual_shares_its_genotype() -> None:
    individual = Individual("g1-i0", 1, GENOTYPE, evaluation=GOOD)
    clone = copy.deepcopy(individual)
    assert clone == individual and clone is not individual
    assert clone.genotype is GENOTYPE, "DEAP's clone copies no masks"
    clone.score = 3.0
    assert individual.score == -math.inf


def test_jobs_and_outcomes_are_frozen_values() -> None:
    parent = ParentGene("g0-i0", "cd" * 32, GENOTYPE)
    job = Job("g1-i0", 1, GENOTYPE, (parent,), True, seed=1, critic_seed=2, critic_tasks=3, task_seed=4)
    outcome = Outcome("g1-i0", "ab" * 32, GOOD)
    assert ParentGene.from_json(strict(parent.to_json())) == parent
    for value in (parent, job, outcome, GOOD):
        thawed = pickle.loads(pickle.dumps(value))
        assert thawed == value
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.individual = "other"  # type: ignore[misc, union-attr]
    assert hash(job) == hash(pickle.loads(pickle.dumps(job)))
    assert job != dataclasses.replace(job, seed=9)
