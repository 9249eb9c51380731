"""Selection: tournaments on scores, elites."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from deap import tools

from gtl.individual import Individual


@contextmanager
def seeded_deap(rng: np.random.Generator) -> Iterator[None]:
    """DEAP's operators draw from the global `random`: seed it from `rng` for their call, and restore it after."""
    state = random.getstate()
    random.seed(int(rng.integers(2**63)))
    try:
        yield
    finally:
        random.setstate(state)


def select_tournament(
    population: Sequence[Individual], rng: np.random.Generator, *, k: int, size: int
) -> list[Individual]:
    """`k` winners; each is the best score of `size` contestants drawn with replacement.

    Only individuals that did not fail take part. Returns references into the population, as DEAP does.
    """
    able = [individual for individual in population if individual.ok]
    with seeded_deap(rng):
        return list(tools.selTournament(able, k, tournsize=size, fit_attr="score"))


def select_elite(population: Sequence[Individual], *, count: int) -> list[Individual]:
    """The `count` best scores that did not fail, one per gene; ties go to the earlier individual."""
    ranked = sorted((i for i in population if i.ok), key=lambda i: (-i.score, i.generation, i.id))
    best: dict[str, Individual] = {}
    for individual in ranked:
        best.setdefault(individual.gene, individual)
    return list(best.values())[:count]
