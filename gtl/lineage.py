"""Who was born when, from whom, how it fared and when it left: journal rows, and the family tree that they add up to.

A row is a plain dict, one JSON object a line in ``lineage.jsonl``. Rows of the same run are equal between repetitions
but for the key ``time``, which holds every measured duration.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gtl.errors import RunError
from gtl.genotype import Genotype
from gtl.individual import Evaluation, Individual

Row = dict[str, Any]

ANCESTOR = "ancestor"  # the parent that founders name: the trained network they were cut from, which is no individual
EVENTS = ("birth", "evaluation", "death")


def birth_row(individual: Individual) -> Row:
    """The row of an individual's birth: everything known before its life, its whole genotype included."""
    return {
        "event": "birth",
        "generation": individual.generation,
        "id": individual.id,
        "parents": list(individual.parents),
        "litter": individual.litter,
        "genotype": individual.genotype.to_json(),
    }


def evaluation_row(individual: Individual, generation: int) -> Row:
    """The row of the individual's latest evaluation, made in `generation` (elites are evaluated again).

    Raises:
        ValueError: it was not evaluated.
    """
    if individual.evaluation is None:
        raise ValueError(f"individual {individual.id} has no evaluation to record; evaluate it first")
    result = individual.evaluation.to_json()
    seconds = result.pop("seconds")
    return {
        "event": "evaluation",
        "generation": generation,
        "id": individual.id,
        "gene": individual.gene,
        "score": individual.score if math.isfinite(individual.score) else None,
        **result,
        "time": {"seconds": seconds},
    }


def death_row(individual: str, generation: int, reason: str) -> Row:
    """The row of an individual's leaving the population in `generation`."""
    return {"event": "death", "generation": generation, "id": individual, "reason": reason}


@dataclass
class Life:
    """What the journal knows of one individual.

    Attributes:
        id: individual.
        generation: generation it was born into.
        parents: ids of the individuals whose genes it was born with; empty for a founder.
        cut: whether it is a founder cut from the run's ancestor network (else a founder is random).
        litter: litter it belongs to.
        genotype: its channels.
        gene: content hash of its gene tensors after the latest evaluation; "" before, or when that failed.
        evaluations: (generation, evaluation), oldest first.
        died: (generation, reason), or None while it lives.
    """

    id: str
    generation: int
    parents: tuple[str, ...]
    cut: bool
    litter: str
    genotype: Genotype
    gene: str = ""
    evaluations: list[tuple[int, Evaluation]] = field(default_factory=list)
    died: tuple[int, str] | None = None

    @property
    def fitness(self) -> float | None:
        """Fitness of the latest evaluation; None before the first, and when the latest failed."""
        if not self.evaluations or not self.evaluations[-1][1].ok:
            return None
        return self.evaluations[-1][1].fitness


class Ancestor(NamedTuple):
    """An ancestor and how many births lie between: 1 for a parent."""

    id: str
    hop: int


class Step(NamedTuple):
    """One individual on the way from a descendant to its founder."""

    id: str
    generation: int
    fitness: float | None
    counts: dict[str, int]


class Lineage(Mapping[str, Life]):
    """The family tree of a run: individual id -> Life, in order of birth."""

    def __init__(self) -> None:
        self._lives: dict[str, Life] = {}
        self._children: dict[str, list[str]] = {}

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], source: str = "lineage") -> Lineage:
        """Replay rows in their order.

        Raises:
            RunError: a row cannot follow those before it (second birth, unknown parent or individual, evaluation or
                death after death, unknown event, missing or wrong field); names `source` and the row, counted from 1.
        """
        lineage = cls()
        for number, row in enumerate(rows, start=1):
            try:
                lineage._replay(row)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise RunError(
                    f"{source}: row {number} cannot follow those before it: {reason}. If it was edited, move it away: "
                    "the generation folders hold every row, and the next resume rebuilds it."
                ) from error
        return lineage

    @classmethod
    def read(cls, path: str | Path) -> Lineage:
        """Replay a journal file. A torn last line (a writer was killed) is dropped; CRLF line ends are accepted.

        Raises:
            RunError: the file cannot be read, or a line is damaged; names the line.
        """
        return cls.from_rows(read_rows(path), source=str(path))

    def ancestors(self, individual: str) -> list[Ancestor]:
        """Every ancestor once, nearest first (breadth first over parents), with the smallest number of hops.

        Raises:
            KeyError: unknown individual.
        """
        found: list[Ancestor] = []
        seen = {individual}
        queue = deque([Ancestor(individual, 0)])
        while queue:
            current = queue.popleft()
            for parent in self[current.id].parents:
                if parent not in seen:
                    seen.add(parent)
                    found.append(Ancestor(parent, current.hop + 1))
                    queue.append(found[-1])
        return found

    def line(self, individual: str) -> list[Step]:
        """The individual, its first parent, that one's first parent, ... to the founder.

        Raises:
            KeyError: unknown individual.
        """
        steps = []
        life = self[individual]
        while True:
            steps.append(Step(life.id, life.generation, life.fitness, life.genotype.counts))
            if not life.parents:
                return steps
            life = self[life.parents[0]]

    def children(self, individual: str) -> tuple[str, ...]:
        """Ids of those born with the individual's gene, in order of birth.

        Raises:
            KeyError: unknown individual.
        """
        return tuple(self._children[individual])

    @property
    def founders(self) -> tuple[str, ...]:
        """Ids of the individuals without parents."""
        return tuple(life.id for life in self.values() if not life.parents)

    def __getitem__(self, individual: str) -> Life:
        return self._lives[individual]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lives)

    def __len__(self) -> int:
        return len(self._lives)

    def _replay(self, row: Mapping[str, Any]) -> None:
        event, individual, generation = row["event"], row["id"], row["generation"]
        if not isinstance(individual, str) or type(generation) is not int:
            raise ValueError(f"id {individual!r} must be text and generation {generation!r} an integer")
        if event == "birth":
            self._birth(row)
            return
        if event not in EVENTS:
            raise ValueError(f"event {event!r} is not one of {', '.join(EVENTS)}")
        life = self._lives.get(individual)
        if life is None:
            raise ValueError(f"{event} of {individual!r}, which was never born")
        if life.died is not None:
            raise ValueError(f"{event} of {individual!r}, which died in generation {life.died[0]}")
        if event == "death":
            life.died = (generation, str(row["reason"]))
            return
        fields = {key: row[key] for key in ("status", "fitness", "metrics", "images", "reason")}
        seconds = row.get("time", {}).get("seconds", 0.0)  # a journal compared between runs may come without times
        life.evaluations.append((generation, Evaluation.from_json({**fields, "seconds": seconds})))
        life.gene = row["gene"]

    def _birth(self, row: Mapping[str, Any]) -> None:
        individual = row["id"]
        parents = tuple(parent for parent in row["parents"] if parent != ANCESTOR)
        if individual in self._lives or individual == ANCESTOR:
            raise ValueError(f"second birth of {individual!r}")
        unknown = [parent for parent in parents if parent not in self._lives]
        if unknown:
            raise ValueError(f"birth of {individual!r} from {unknown}, never born")
        genotype = Genotype.from_json(row["genotype"])
        cut = ANCESTOR in row["parents"]
        self._lives[individual] = Life(individual, row["generation"], parents, cut, row["litter"], genotype)
        self._children[individual] = []
        for parent in dict.fromkeys(parents):
            self._children[parent].append(individual)


def read_rows(path: str | Path) -> list[Row]:
    """Rows of a journal file, a torn last line dropped.

    Raises:
        RunError: the file cannot be read, or a line before the last is no JSON object; names the line.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}. Is it the lineage.jsonl of a run directory?") from error
    return parse_rows(data, str(path))


def parse_rows(data: bytes, source: str = "lineage") -> list[Row]:
    """Rows in the bytes of a journal file, a torn last line dropped; `source` names it in errors.

    Raises:
        RunError: a line before the last is no JSON object; names the line.
    """
    lines = data.split(b"\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is empty, or torn
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"{source}: line {number} is damaged ({error}). Move the file away: the generation folders hold every "
                "row, and the next resume rebuilds it."
            ) from error
        rows.append(row)
    return rows
