"""Evaluators turn jobs into outcomes. The in-process one is the reference for every other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch

from gtl.errors import GtlError
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.life import Judged, World, evaluate, evaluate_pack
from gtl.population.packs import packs
from gtl.population.signals import Signals
from gtl.surgery import GeneTensors
from gtl.versions import versions

T = TypeVar("T")
Genes = Callable[[Job], Sequence[GeneTensors]]  # the tensors of `job.genes`, in their order


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


class AroundEvaluator:
    """Base of evaluators that decide what another one evaluates; all else is that one's.

    Args:
        evaluator: does the work.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    @property
    def versions(self) -> Mapping[str, str]:
        """Of what computes."""
        return self._evaluator.versions

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Passed on, and not remembered."""
        return self._evaluator.call(function, *args)


class InProcessEvaluator:
    """Evaluates one job, or one pack of lives, after the other in this process."""

    def __init__(self, world: World, genes: GeneStore, signals: Signals | None = None) -> None:
        self.world = world
        self.genes = genes
        self._signals = signals or Signals()

    @property
    def versions(self) -> Mapping[str, str]:
        """Of this process."""
        return versions(self.world.compute)

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes in the order of the jobs. An unexpected error costs one individual, not the generation."""
        for pack in packs(jobs, self.world.config.compute.pack):
            with self._signals.interruptible():
                judged = attempt_pack(pack, self._genes_of, self.world)
            for job, (tensors, evaluation) in zip(pack, judged, strict=True):
                yield Outcome(job.individual, "" if tensors is None else self.genes.put(tensors), evaluation)

    def _genes_of(self, job: Job) -> list[GeneTensors]:
        return [self.genes.get(gene) for gene in job.genes]

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """In this process; a signal cuts it off."""
        with self._signals.interruptible():
            return function(self.world, *args)


def attempt_pack(jobs: Sequence[Job], genes: Genes, world: World, *, memory_passes: bool = False) -> list[Judged]:
    """`evaluate_pack`; where the pack fails, such as for want of memory, its members live one after the other.

    Those then say so: their reason tells why, and the size of their pack among their metrics is 1.

    Args:
        genes, memory_passes: as `attempt` has them; memory that runs out counts for members by themselves only.
    """
    if len(jobs) == 1:
        return [attempt(jobs[0], genes, world, memory_passes=memory_passes)]
    try:
        return evaluate_pack(jobs, [genes(job) for job in jobs], world)
    except GtlError:
        raise
    except Exception as error:
        cause = f"its pack of {len(jobs)} failed ({type(error).__name__}: {error}), so it lived by itself"
    if world.compute.device.type == "cuda":
        torch.cuda.empty_cache()  # what the pack held; its tensors are gone with the error
    found = []
    for job in jobs:
        gene, evaluation = attempt(job, genes, world, memory_passes=memory_passes)
        reason = "; ".join(filter(None, (evaluation.reason, cause)))
        found.append((gene, replace(evaluation, reason=reason, metrics={**evaluation.metrics, "pack": 1})))
    return found


def attempt(job: Job, genes: Genes, world: World, *, memory_passes: bool = False) -> Judged:
    """`evaluate`, with an unexpected error as an outcome of its own.

    Args:
        genes: the tensors of a job's genes.
        memory_passes: raise when memory runs out, for a caller that can try again with more of it.
    """
    try:
        return evaluate(job, genes(job), world)
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
