"""Tournaments press as hard as they should, failures never win, and the global `random` is left as it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
from pico import individual, within_binomial

from gtl.evolution.selection import seeded_deap, select_elite, select_tournament


def ranked(count: int) -> list:
    return [individual(f"i{number}", number / count) for number in range(count)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_tournament_pressure(size: int) -> None:
    """Contestants are drawn with replacement: rank r of n wins with ((r + 1)**T - r**T) / n**T."""
    count, trials = 6, 3000
    population = ranked(count)
    winners = select_tournament(population, np.random.default_rng(1), k=trials, size=size)
    assert len(winners) == trials
    for rank, member in enumerate(population):
        expected = ((rank + 1) ** size - rank**size) / count**size
        assert within_binomial(sum(winner is member for winner in winners), trials, expected)


def test_with_replacement_the_worst_of_two_can_win_and_few_can_fill_many() -> None:
    population = ranked(2)
    winners = select_tournament(population, np.random.default_rng(2), k=2000, size=2)
    assert within_binomial(sum(winner is population[0] for winner in winners), 2000, 1 / 4)
    (only,) = ranked(1)
    assert select_tournament([only], np.random.default_rng(0), k=3, size=5) == [only] * 3


def test_the_winners_are_references() -> None:
    population = ranked(4)
    for winner in select_tournament(population, np.random.default_rng(3), k=20, size=2):
        assert any(winner is member for member in population)


def test_the_failed_never_win() -> None:
    population = [individual("bad0", None), individual("good", 0.001), individual("bad1", None)]
    population.append(individual("fresh", 0.9, evaluation=None))
    for size in (1, 2, 9):
        winners = select_tournament(population, np.random.default_rng(size), k=200, size=size)
        assert {winner.id for winner in winners} == {"good"}
    assert [elite.id for elite in select_elite(population, count=4)] == ["good"]


def test_the_same_generator_gives_the_same_winners() -> None:
    population = ranked(9)
    names = [
        [winner.id for winner in select_tournament(population, np.random.default_rng(seed), k=12, size=2)]
        for seed in (4, 4, 5)
    ]
    assert names[0] == names[1] != names[2]
    draw = np.random.default_rng(4)
    first, second = (select_tournament(population, draw, k=12, size=2) for _ in range(2))
    assert first != second, "one generator goes on"


def test_global_random_is_left_as_it_was() -> None:
    random.seed(77)
    before = random.getstate()
    select_tournament(ranked(5), np.random.default_rng(0), k=7, size=3)
    assert random.getstate() == before
    with pytest.raises(ZeroDivisionError), seeded_deap(np.random.default_rng(0)):
        random.random()
        raise ZeroDivisionError
    assert random.getstate() == before, "after an error, too"
    random.seed(1)
    one = [i.id for i in select_tournament(ranked(5), np.random.default_rng(8), k=7, size=3)]
    random.seed(2)
    assert one == [i.id for i in select_tournament(ranked(5), np.random.default_rng(8), k=7, size=3)]


def test_elites_are_the_best_one_per_gene() -> None:
    twin = individual("i9", 0.9, gene="same")
    older = individual("i1", 0.9, gene="other", generation=-1)
    population = [individual("i5", 0.2), twin, individual("i8", 0.9, gene="same"), older, individual("i2", 0.5)]
    assert [elite.id for elite in select_elite(population, count=3)] == ["i1", "i8", "i2"]
    assert select_elite(population, count=0) == []
    assert [elite.id for elite in select_elite(population, count=9)] == ["i1", "i8", "i2", "i5"]
    shuffled = [population[i] for i in (4, 2, 0, 1, 3)]
    assert select_elite(shuffled, count=9) == select_elite(population, count=9), (
        "the order of the population is nothing"
    )
