"""Evaluators turn jobs into outcomes. The in-process one is the reference for every other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch

from gtl.errors import GtlError
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.life import World, evaluate


class GeneStore(Protocol):
    """Where gene tensors live, by content hash."""

    def put(self, tensors: Mapping[str, torch.Tensor]) -> str:
        """Keep tensors; returns their content hash."""
        ...

    def get(self, digest: str) -> dict[str, torch.Tensor]:
        """The tensors of a content hash."""
        ...


class Evaluator(Protocol):
    """What the engine asks of an evaluator: an outcome for every job, in any order."""

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes as they arrive."""
        ...


class InProcessEvaluator:
    """Evaluates one job after the other in this process."""

    def __init__(self, world: World, genes: GeneStore) -> None:
        self.world = world
        self.genes = genes

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes in the order of the jobs. An unexpected error costs one individual, not the generation."""
        for job in jobs:
            try:
                tensors, evaluation = evaluate(job, [self.genes.get(p.gene) for p in job.parents], self.world)
            except GtlError:
                raise  # a wrong configuration, bad data or a full disk is the run's problem, not the individual's
            except Exception as error:
                yield Outcome(job.individual, "", Evaluation(Status.CRASHED, reason=f"{type(error).__name__}: {error}"))
                continue
            yield Outcome(job.individual, "" if tensors is None else self.genes.put(tensors), evaluation)
