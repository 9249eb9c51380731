"""Score: what selection maximises. Size-aware, decaying with age, with credit for living ancestors.

Sources: GRL's score (methods.md 1.4: reward over cost, cost = sum of square roots of layer sizes), ECO's "Update of the
Learngene Score" (known by title only). All individuals of a generation meet the same critic tasks, so accuracies
compare directly and GRL's normalisation by task is the identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deap import base

from gtl.config import ScoreSection
from gtl.individual import Individual
from gtl.layout import ChannelLayout

MAX_HOPS = 3


class ScoreFitness(base.Fitness):
    """DEAP fitness with one maximised value. A plain module-level class: it pickles, unlike `creator` classes."""

    weights = (1.0,)


def relative_cost(layout: ChannelLayout, counts: Mapping[str, int]) -> float:
    """GRL's cost of a gene over the cost of the whole network, in (0, 1]: sum over kernels of sqrt(parameters)."""
    return sum(map(math.sqrt, layout.kernel_sizes(counts))) / sum(map(math.sqrt, layout.kernel_sizes(layout.groups)))


def raw_score(individual: Individual, layout: ChannelLayout, section: ScoreSection) -> float:
    """accuracy / cost**size_exponent; -inf unless the evaluation is ok."""
    if individual.evaluation is None or not individual.evaluation.ok:
        return -math.inf
    return individual.evaluation.fitness / relative_cost(layout, individual.genotype.counts) ** section.size_exponent


def update_scores(
    population: Sequence[Individual], generation: int, layout: ChannelLayout, section: ScoreSection
) -> None:
    """Set every individual's score: ``decay**age * raw + credit``.

    An individual's credit decays too, and grows by ``credit**(2**hop)`` times the score of each better-than-average
    descendant in the population, times the overlap of the two genes beyond the first hop (GRL's gene tree).
    """
    alive = {individual.id: individual for individual in population}
    base_scores = {}
    for individual in population:
        age = generation - individual.generation
        base_scores[individual.id] = section.decay**age * raw_score(individual, layout, section)
        individual.credit *= section.decay
    finite = [score for score in base_scores.values() if math.isfinite(score)]
    average = sum(finite) / len(finite) if finite else 0.0
    if section.credit > 0:
        for individual in population:
            if base_scores[individual.id] > average:
                _credit_ancestors(individual, base_scores[individual.id], alive, section.credit)
    for individual in population:
        individual.score = base_scores[individual.id] + individual.credit


def _credit_ancestors(winner: Individual, score: float, alive: Mapping[str, Individual], credit: float) -> None:
    """Walk up the living first-parent line of a winner; the factor is squared at every hop."""
    child, factor = winner, credit
    for hop in range(MAX_HOPS):
        ancestor = alive.get(child.parents[0]) if child.parents else None
        if ancestor is None or ancestor is child:
            return
        overlap = 1.0 if hop == 0 else child.genotype.overlap(ancestor.genotype)
        ancestor.credit += factor * score * overlap
        child, factor = ancestor, factor * factor
