"""Search for the allocation: how many channels of each group, under a budget, without training.

The evolution of a run without its lives, for one ancestor: the same mutation, the same tournaments, the same critic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from gtl.evolution.founding import ALLOCATIONS, allocation, draw_allocation, scale_allocation
from gtl.evolution.toolbox import make_toolbox
from gtl.individual import Evaluation, Individual, Status
from gtl.learngene.oneshot import Jury, Pick
from gtl.life import World
from gtl.seeds import rng

STARTS, GENERATIONS, CHILDREN = 10, 14, 8


@dataclass(frozen=True)
class FoundAllocation:
    """What a search found.

    Attributes:
        counts: channels per group, the largest within the budget in these proportions.
        fitness: critic accuracy on the search's tasks, which flatters it: it was selected on them.
        rules: the same of the allocations by rule (``uniform``, ``early``, ``level``), which the search begins with.
        evaluations: different genes that were judged.
    """

    counts: dict[str, int]
    fitness: float
    rules: dict[str, float]
    evaluations: int


def search_allocation(
    world: World,
    tensors: Mapping[str, torch.Tensor],
    pick: Pick,
    *,
    starts: int = STARTS,
    generations: int = GENERATIONS,
    children: int = CHILDREN,
    say: Callable[[str], None] = lambda text: None,
) -> FoundAllocation:
    """Search for the best allocation of ``gene.budget`` to the groups of a trained network.

    Starts are the allocations by rule, and shares per group drawn at random. In every generation, parents win
    tournaments, children are their mutations, and the best `starts` of all live on. Every gene is scaled to the budget, and
    holds the channels that `pick` takes; so only proportions are searched, and the same for the same seed.

    Args:
        world: its configuration gives budget, floor, mutation (with the step of search generations), tournaments, critic
            tasks (``critic.tasks``, the same throughout) and seed. All selection is on validation classes.
        tensors: of the whole network.
        pick: `gtl.learngene.oneshot.picker` of it.
        starts: genes that a generation keeps.
        generations, children: how long, and how many new genes in each.
    """
    layout, size, seed = world.layout, world.config.gene, world.config.seed
    jury = Jury.called(world, "allocation search", world.config.critic.tasks)
    toolbox = make_toolbox(world.config, layout, None)
    judged: dict[tuple[int, ...], Individual] = {}

    def born(counts: Mapping[str, int], generation: int) -> Individual:
        """The gene of these counts, judged once."""
        key = tuple(counts.values())
        if key not in judged:
            genotype = pick(counts)
            _, accuracy = jury.cut(tensors, genotype)
            evaluation = Evaluation(Status.OK, accuracy)
            judged[key] = Individual(
                f"{len(judged):05d}", generation, genotype, gene=str(key), evaluation=evaluation, score=accuracy
            )
        return judged[key]

    rules = {kind: born(allocation(layout, kind, size.budget, size.min_channels), 0) for kind in ALLOCATIONS}
    whole_budget = size.model_copy(update={"initial_share": (size.budget, size.budget)})
    for number in range(starts - len(rules)):
        born(draw_allocation(rng(seed, "allocation search", "start", number), layout, whole_budget), 0)
    for generation in range(1, generations + 1):
        population = toolbox.elite(list(judged.values()), count=starts)
        draw = rng(seed, "allocation search", generation)
        for parent in toolbox.select(population, draw, k=children):
            (child,) = toolbox.search_mutate(parent.genotype, draw)
            shares = {group: len(mask) / mask.size for group, mask in child.items()}
            born(scale_allocation(shares, layout, size.budget, size.min_channels), generation)
        best = max(judged.values(), key=lambda gene: gene.score)
        say(f"allocation: generation {generation} of {generations}, {len(judged)} genes judged, best {best.score:.3f}")
    best = max(judged.values(), key=lambda gene: gene.score)
    return FoundAllocation(
        best.genotype.counts, best.score, {kind: rule.score for kind, rule in rules.items()}, len(judged)
    )
