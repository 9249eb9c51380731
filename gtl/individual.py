"""Individual, Evaluation, Job and Outcome: what travels between the manager and the evaluators. Values only, no tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from gtl.genotype import Genotype


class Status(StrEnum):
    """How an evaluation ended. Only `ok` can win a tournament."""

    OK = "ok"
    DIVERGED = "diverged"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    LOST = "lost"  # every worker that tried it died


@dataclass(frozen=True)
class Evaluation:
    """Result of one life. A failure is a status with a reason, never None and never NaN.

    Attributes:
        status: how it ended.
        fitness: critic accuracy on validation classes in 0..1; 0 unless the status is ok.
        metrics: further finite numbers, by name.
        images: training images consumed (life and critic training).
        seconds: wall time of the whole evaluation.
        reason: why it failed; where it is ok, empty, or what went wrong on the way.
    """

    status: Status
    fitness: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.fitness):
            raise ValueError(f"fitness {self.fitness} is not finite; report a failure as a status instead")
        if not all(math.isfinite(value) for value in self.metrics.values()):
            raise ValueError(f"metrics {dict(self.metrics)} are not all finite")

    @property
    def ok(self) -> bool:
        """Whether this evaluation may win."""
        return self.status is Status.OK

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "status": self.status.value,
            "fitness": self.fitness,
            "metrics": dict(self.metrics),
            "images": self.images,
            "seconds": self.seconds,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        """Inverse of `to_json`."""
        return cls(**{**value, "status": Status(value["status"])})


@dataclass(frozen=True)
class ParentGene:
    """One parent of a child: its gene tensors by content hash, and the genotype that they belong to."""

    individual: str
    gene: str
    genotype: Genotype

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {"individual": self.individual, "gene": self.gene, "genotype": self.genotype.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ParentGene:
        """Inverse of `to_json`."""
        return cls(value["individual"], value["gene"], Genotype.from_json(value["genotype"]))


@dataclass(frozen=True)
class Job:
    """One evaluation to do: a complete frozen value, so that any worker at any time computes the same.

    Attributes:
        individual: id of the child, for example "g003-i05".
        generation: generation the child is born into.
        genotype: the child's channels: what is read out of the trained host.
        parents: genes the host is born with. Several: averaged where they share a genotype, otherwise each channel
            comes from the first parent that has it. None: a fresh random network.
        lives: whether the host trains (False for an unchanged elite, which only meets the new critic tasks).
        seed: seeds everything individual (host weights, class draw, batches).
        critic_seed: seeds the critic's tasks; equal for all jobs of a generation (common random numbers).
        critic_tasks: how many tasks the critic sets.
        task_seed: seeds the draw of the life's classes.
        steps: optimiser steps of the life, where it is a heat of a race; None: ``life.steps``.
        teacher: content hash of the ancestor that the life is distilled from or takes added channels of; None: of none.
    """

    individual: str
    generation: int
    genotype: Genotype
    parents: tuple[ParentGene, ...]
    lives: bool
    seed: int
    critic_seed: int
    critic_tasks: int
    task_seed: int
    steps: int | None = None
    teacher: str | None = None

    @property
    def genes(self) -> tuple[str, ...]:
        """Content hashes of all tensors that the job needs: its parents' in their order, then its teacher's."""
        return (*(parent.gene for parent in self.parents), *([] if self.teacher is None else [self.teacher]))

    def to_json(self) -> dict[str, Any]:
        """Plain form; without `steps` and `teacher` where they are None, as before there were any."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {name: value for name, value in plain.items() if value is not None}
        return {**plain, "genotype": self.genotype.to_json(), "parents": [parent.to_json() for parent in self.parents]}

    @cached_property
    def text(self) -> bytes:
        """`to_json` as JSON: what is sent to workers, and what is hashed. Keys keep their order, which groups have, too."""
        return json.dumps(self.to_json(), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Job:
        """Inverse of `to_json`."""
        genotype = Genotype.from_json(value["genotype"])
        return cls(**{**value, "genotype": genotype, "parents": tuple(map(ParentGene.from_json, value["parents"]))})


@dataclass(frozen=True)
class Outcome:
    """What an evaluator returns for a job: the evaluation, and the child's gene tensors by content hash ("" if failed)."""

    individual: str
    gene: str
    evaluation: Evaluation


@dataclass
class Individual:
    """One member of the population.

    Attributes:
        id: unique in the run.
        generation: generation it was born into.
        genotype: which channels it keeps.
        parents: ids of the individuals whose genes it was born with.
        gene: content hash of its gene tensors; "" before its evaluation or when it failed.
        litter: individuals of one litter share genotype and parents and differ in their lives.
        evaluation: None until evaluated.
        score: what selection maximises; -inf for a failed evaluation.
        credit: what descendants' success has added to the score.
    """

    id: str
    generation: int
    genotype: Genotype
    parents: tuple[str, ...] = ()
    gene: str = ""
    litter: str = ""
    evaluation: Evaluation | None = None
    score: float = -math.inf
    credit: float = 0.0

    @property
    def ok(self) -> bool:
        """Evaluated, and not failed."""
        return self.evaluation is not None and self.evaluation.ok

    def to_json(self) -> dict[str, Any]:
        """Plain form; a failed individual's score is written as null, since JSON has no infinity."""
        return {
            "id": self.id,
            "generation": self.generation,
            "genotype": self.genotype.to_json(),
            "parents": list(self.parents),
            "gene": self.gene,
            "litter": self.litter,
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
            "score": self.score if math.isfinite(self.score) else None,
            "credit": self.credit,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Individual:
        """Inverse of `to_json`."""
        evaluation = value["evaluation"]
        return cls(
            id=value["id"],
            generation=value["generation"],
            genotype=Genotype.from_json(value["genotype"]),
            parents=tuple(value["parents"]),
            gene=value["gene"],
            litter=value["litter"],
            evaluation=None if evaluation is None else Evaluation.from_json(evaluation),
            score=-math.inf if value["score"] is None else float(value["score"]),
            credit=float(value["credit"]),
        )
