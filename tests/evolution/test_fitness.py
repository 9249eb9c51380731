"""The score: size-aware, decaying, with credit for living ancestors; a failure is minus infinity and nothing else."""

from __future__ import annotations

import math
import pickle

import pytest
from pico import GROUPS, individual

from gtl.config import ScoreSection
from gtl.evolution.fitness import MAX_HOPS, ScoreFitness, raw_score, relative_cost, update_scores
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Individual, Status
from gtl.models import gene_layout

LAYOUT = gene_layout("vgg11", dict.fromkeys(GROUPS["vgg11"], 4))
PLAIN = ScoreSection(size_exponent=0.0)


def masks(*kept: int) -> Genotype:
    return Genotype({group: ChannelMask(4, kept) for group in GROUPS["vgg11"]})


def alive(
    name: str, fitness: float, parent: str = "", generation: int = 0, genotype: Genotype | None = None
) -> Individual:
    parents = (parent,) if parent else ()
    return individual(name, fitness, parents=parents, generation=generation, genotype=genotype or masks(0, 1))


def test_cost_by_hand() -> None:
    one = dict.fromkeys(GROUPS["vgg11"], 1)
    expected = (math.sqrt(27) + 7 * 3) / (math.sqrt(4 * 27) + 7 * 3 * 4)
    assert relative_cost(LAYOUT, one) == pytest.approx(expected)
    assert relative_cost(LAYOUT, LAYOUT.groups) == 1.0
    assert expected < relative_cost(LAYOUT, {**one, "conv3": 2}) < 1


def test_the_size_exponent_weighs_accuracy_against_size() -> None:
    small, large = alive("s", 0.5, genotype=masks(0)), alive("l", 0.55, genotype=masks(0, 1, 2))
    for exponent, better in ((0.0, large), (0.02, large), (1.0, small)):
        section = ScoreSection(size_exponent=exponent)
        scores = {i.id: raw_score(i, LAYOUT, section) for i in (small, large)}
        assert max(scores, key=scores.__getitem__) == better.id
        assert scores["s"] == pytest.approx(0.5 / relative_cost(LAYOUT, small.genotype.counts) ** exponent)


def test_failures_score_minus_infinity() -> None:
    population = [alive("a", 0.4), individual("never", 0.9, evaluation=None), alive("b", 0.6)]
    for status in (Status.DIVERGED, Status.CRASHED, Status.TIMED_OUT):
        population.append(individual(status.value, 0.9, evaluation=Evaluation(status, 0.99, reason="x")))
    section = ScoreSection(size_exponent=0.5, decay=0.5, credit=0.5)
    assert [raw_score(i, LAYOUT, section) for i in population[3:]] == [-math.inf] * 3
    update_scores(population, 2, LAYOUT, section)
    assert [i.score for i in population if not i.ok] == [-math.inf] * 4
    assert all(math.isfinite(i.score) for i in population if i.ok)
    assert max(population, key=lambda i: i.score).id == "b"
    assert not any(math.isnan(i.score) or math.isnan(i.credit) for i in population)


def test_a_population_of_failures_has_no_score() -> None:
    population = [individual("a", None), individual("b", None)]
    update_scores(population, 1, LAYOUT, ScoreSection(credit=0.5))
    assert [i.score for i in population] == [-math.inf] * 2


def test_survivors_decay_with_age() -> None:
    population = [alive("old", 0.8, generation=1), alive("young", 0.8, generation=3)]
    update_scores(population, 3, LAYOUT, ScoreSection(size_exponent=0.0, decay=0.6))
    assert [i.score for i in population] == [pytest.approx(0.8 * 0.36), pytest.approx(0.8)]
    update_scores(population, 3, LAYOUT, PLAIN)
    assert [i.score for i in population] == [0.8, 0.8], "decay 1: none"


def test_winners_credit_their_living_ancestors() -> None:
    """credit, then its square, then the fourth power; overlaps of consecutive genes from the second hop on."""
    great = alive("great", 0.1, genotype=masks(0, 1, 2))
    grand = alive("grand", 0.1, "great", genotype=masks(1, 2))  # overlap with great 2/3
    parent = alive("parent", 0.1, "grand", genotype=masks(2, 3))  # overlap with grand 1/3
    winner = alive("winner", 0.9, "parent", genotype=masks(0))  # the first hop does not ask
    other = alive("other", 0.1)
    population = [great, grand, parent, winner, other]
    update_scores(population, 0, LAYOUT, ScoreSection(size_exponent=0.0, credit=0.5))
    assert parent.credit == pytest.approx(0.5 * 0.9)
    assert grand.credit == pytest.approx(0.25 * 0.9 / 3)
    assert great.credit == pytest.approx(0.0625 * 0.9 * 2 / 3)
    assert winner.credit == other.credit == 0.0
    assert [i.score for i in population] == pytest.approx([0.1 + i.credit for i in population[:3]] + [0.9, 0.1])


def test_credit_ends_after_the_last_hop_and_at_the_dead() -> None:
    line = [alive("i0", 0.1)] + [alive(f"i{n}", 0.1, f"i{n - 1}") for n in range(1, MAX_HOPS + 1)]
    line.append(alive("winner", 0.9, f"i{MAX_HOPS}"))
    update_scores(line, 0, LAYOUT, ScoreSection(size_exponent=0.0, credit=0.5))
    assert [i.credit > 0 for i in line] == [False] + [True] * MAX_HOPS + [False]
    for individual_ in line:
        individual_.credit = 0.0
    without_parent = [i for i in line if i.id != f"i{MAX_HOPS}"]
    update_scores(without_parent, 0, LAYOUT, ScoreSection(size_exponent=0.0, credit=0.5))
    assert all(i.credit == 0 for i in without_parent), "no living parent: the walk ends"


def test_only_the_better_than_average_give_credit() -> None:
    population = [alive("p", 0.5), alive("q", 0.5), alive("above", 0.6, "p"), alive("below", 0.4, "q")]
    update_scores(population, 0, LAYOUT, ScoreSection(size_exponent=0.0, credit=0.5))
    assert population[0].credit == pytest.approx(0.3) and population[1].credit == 0.0
    fresh = [alive("p", 0.5), alive("above", 0.6, "p")]
    update_scores(fresh, 0, LAYOUT, PLAIN)
    assert [i.credit for i in fresh] == [0.0, 0.0], "credit 0: none"


def test_credit_decays_and_adds_up() -> None:
    population = [alive("p", 0.2), alive("w", 0.8, "p")]
    section = ScoreSection(size_exponent=0.0, decay=0.5, credit=0.5)
    update_scores(population, 0, LAYOUT, section)
    assert population[0].credit == pytest.approx(0.4)
    update_scores(population, 1, LAYOUT, section)
    assert population[0].credit == pytest.approx(0.4 * 0.5 + 0.5 * (0.8 * 0.5))


def test_deap_fitness_pickles() -> None:
    fitness = ScoreFitness((0.5,))
    thawed = pickle.loads(pickle.dumps(fitness))
    assert type(thawed) is ScoreFitness and thawed == fitness
    assert ScoreFitness((0.6,)) > fitness > ScoreFitness((-math.inf,))
