"""Evaluators turn jobs into outcomes. The in-process one is the reference for every other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import torch

from gtl.errors import GtlError
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.life import World, evaluate
from gtl.population.signals import Signals
from gtl.surgery import GeneTensors
from gtl.versions import versions

T = TypeVar("T")


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

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of what computes; part of every learngene."""
        ...

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes as they arrive."""
        ...

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """``function(world, *args)``, computed where lives are; a pure function, importable by name."""
        ...


class InProcessEvaluator:
    """Evaluates one job after the other in this process."""

    def __init__(self, world: World, genes: GeneStore, signals: Signals | None = None) -> None:
        self.world = world
        self.genes = genes
        self._signals = signals or Signals()

    @property
    def versions(self) -> Mapping[str, str]:
        """Of this process."""
        return versions(self.world.compute.device)

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes in the order of the jobs. An unexpected error costs one individual, not the generation."""
        for job in jobs:
            with self._signals.interruptible():
                tensors, evaluation = attempt(job, (self.genes.get(p.gene) for p in job.parents), self.world)
            yield Outcome(job.individual, "" if tensors is None else self.genes.put(tensors), evaluation)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """In this process; a signal cuts it off."""
        with self._signals.interruptible():
            return function(self.world, *args)


def attempt(
    job: Job, parents: Iterable[GeneTensors], world: World, *, memory_passes: bool = False
) -> tuple[GeneTensors | None, Evaluation]:
    """`evaluate`, with an unexpected error as an outcome of its own.

    Args:
        memory_passes: raise when memory runs out, for a caller that can try again with more of it.
    """
    try:
        return evaluate(job, list(parents), world)
    except GtlError:
        raise  # a wrong configuration, bad data or a full disk is the run's problem, not the individual's
    except (MemoryError, torch.OutOfMemoryError) as error:
        if memory_passes:
            raise
        return None, _crashed(error)
    except Exception as error:
        return None, _crashed(error)


def _crashed(error: Exception) -> Evaluation:
    return Evaluation(Status.CRASHED, reason=f"{type(error).__name__}: {error}")
