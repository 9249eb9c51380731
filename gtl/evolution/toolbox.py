"""The DEAP toolbox of a run, and DEAP's records: statistics, hall of fame.

A run's logbook is a plain list of records: DEAP's Logbook moves nested ones into chapters, which JSON does not carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deap import base, tools

from gtl.config import Config
from gtl.evolution.crossover import exchange_channels
from gtl.evolution.fitness import ScoreFitness
from gtl.evolution.mutation import Ranking, fit_budget, mutate
from gtl.evolution.selection import select_elite, select_tournament
from gtl.individual import Individual
from gtl.layout import ChannelLayout

HALL_SIZE = 5


def make_toolbox(config: Config, layout: ChannelLayout, ranking: Ranking | None) -> base.Toolbox:
    """Roles: select, elite, mate, fit, mutate, search_mutate. `evaluate` is registered by the engine, with its evaluator."""
    toolbox = base.Toolbox()
    section = config.evolution
    toolbox.register("select", select_tournament, size=section.tournament.size)
    toolbox.register("elite", select_elite, count=section.tournament.elite)
    toolbox.register("mate", exchange_channels)
    toolbox.register("fit", fit_budget, layout=layout, size=config.gene)
    toolbox.register("mutate", mutate, layout=layout, rates=section.mutation, size=config.gene)
    searching = section.mutation.model_copy(update={"strength": section.mutation.search_strength})
    toolbox.register("search_mutate", mutate, layout=layout, rates=searching, size=config.gene, ranking=ranking)
    return toolbox


def generation_statistics(population: Sequence[Individual], layout: ChannelLayout) -> dict[str, Any]:
    """Logbook record of a generation: fitness and gene share (mean, min, max over what did not fail), and counts."""
    able = [individual for individual in population if individual.ok]
    statistics = tools.MultiStatistics(
        fitness=tools.Statistics(key=lambda i: i.evaluation.fitness),
        share=tools.Statistics(key=lambda i: layout.circuit_share(i.genotype.counts)),
    )
    statistics.register("mean", lambda values: sum(values) / len(values))
    statistics.register("min", min)
    statistics.register("max", max)
    record: dict[str, Any] = statistics.compile(able) if able else {}
    return {**record, "individuals": len(population), "failed": len(population) - len(able)}


class HallOfFame:
    """The best genes of a run: DEAP's HallOfFame over scores, one entry per gene, kept as individuals.

    Args:
        individuals: a hall to go on with, best first, as `individuals` gives it.
    """

    def __init__(self, individuals: Sequence[Individual] = ()) -> None:
        self._hall = tools.HallOfFame(HALL_SIZE, similar=lambda a, b: a.individual.gene == b.individual.gene)
        self.update(individuals[::-1])  # DEAP puts a newcomer before its equals

    def update(self, population: Sequence[Individual]) -> None:
        """Take in what did not fail."""
        self._hall.update([_Entry(individual) for individual in population if individual.ok])

    @property
    def individuals(self) -> list[Individual]:
        """Best first."""
        return [entry.individual for entry in self._hall]


class _Entry:
    """What DEAP's HallOfFame needs to see of an individual: a fitness. It deep-copies entries; they hold no tensors."""

    def __init__(self, individual: Individual) -> None:
        self.individual = individual
        self.fitness = ScoreFitness((individual.score,))
