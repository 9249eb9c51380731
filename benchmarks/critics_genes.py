"""The genes of `benchmarks/critics.py`: of varied size, allocation and origin, so that critics have something to rank.

Most are cut from an ancestor that was trained as long as the configuration says, every score of channels with every
allocation; some from ancestors that were trained for less; and some of the first have lived since. Sizes are spread evenly
on a logarithmic scale and dealt out at random, so that size goes with nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gtl.config import GeneSection
from gtl.errors import EvolutionError
from gtl.evolution.founding import allocation, draw_allocation, scale_allocation
from gtl.genotype import Genotype
from gtl.individual import Job, ParentGene
from gtl.learngene.founders import ancestor_steps, pretrain
from gtl.learngene.kept import kept_tensors
from gtl.learngene.oneshot import one_shot_genotype
from gtl.learngene.starts import Initialisation, gene_start
from gtl.life import World, evaluate, norm_fitted
from gtl.seeds import derive, rng
from gtl.surgery import GeneTensors, gather

SEED = 0
SMALLEST, LARGEST = 0.04, 0.40  # of the convolution parameters
METHODS = ("l1", "bn", "random")
DRAWN, SEARCHED = "drawn", "searched"
ALL_ALLOCATIONS = ("uniform", "early", DRAWN, SEARCHED)  # of the recorded genes; a rule more would make them others
WHOLE = 1.0  # the ancestor of the configuration's own length
Say = Callable[[str], None]


@dataclass(frozen=True)
class Origin:
    """How a gene comes about.

    Attributes:
        ancestor: length of its training, as a share of what the configuration says.
        method: score of channels: l1, bn or random.
        allocation: how the size is spent on the groups: by a rule, drawn, or with the shares of an evolved learngene.
        share: of the convolution parameters, at most.
        lives: that it lived after it was cut.
    """

    ancestor: float
    method: str
    allocation: str
    share: float
    lives: int = 0

    def __str__(self) -> str:
        lives = f", {self.lives} lives" if self.lives else ""
        return f"{self.method} {self.allocation} {self.share:.0%} of ancestor x {self.ancestor:g}{lives}"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A gene that is to be judged."""

    origin: Origin
    genotype: Genotype
    tensors: GeneTensors
    start: Initialisation
    share: float

    def to_json(self) -> dict[str, Any]:
        """Without the tensors."""
        return {**vars(self.origin), "share": self.share, "counts": list(self.genotype.counts.values())}


@dataclass(frozen=True)
class Plan:
    """Which genes there are.

    Attributes:
        whole: genes of each score and allocation from the whole ancestor.
        shorter: lengths of the other ancestors, from each of which half of the scores and allocations are taken.
        lived: how many of the first kind are also there after lives: one, then two, in turns.
        methods: scores of channels.
    """

    whole: int = 2
    shorter: tuple[float, ...] = (1 / 16, 1 / 4)
    lived: int = 12
    methods: tuple[str, ...] = METHODS

    def origins(self) -> list[Origin]:
        """All of them: 48 unless told otherwise."""
        cells = [(method, kind) for kind in ALL_ALLOCATIONS for method in self.methods]
        kinds = [(WHOLE, *cell) for _ in range(self.whole) for cell in cells]
        for number, length in enumerate(self.shorter):
            kinds += [(length, *cell) for cell in cells[number % 2 :: 2]]
        sizes = np.geomspace(SMALLEST, LARGEST, len(kinds))[rng(SEED, "sizes").permutation(len(kinds))].tolist()
        cut = [Origin(*kind, share) for kind, share in zip(kinds, sizes, strict=True)]
        chosen = rng(SEED, "lived").permutation(self.whole * len(cells))[: self.lived].tolist()
        lived = [Origin(**{**vars(cut[index]), "lives": 1 + n % 2}) for n, index in enumerate(chosen)]
        return cut + lived


def candidates(world: World, plan: Plan, searched: Mapping[str, float], say: Say) -> list[Candidate]:
    """All genes of a plan; ancestors and what has lived are kept in the cache folder.

    Args:
        searched: relative shares of the groups that an evolution found.
    """
    found = []
    for number, origin in enumerate(plan.origins()):
        tensors = ancestor(world, origin.ancestor, say)
        counts = allocated(world, origin, searched)
        seed = derive(SEED, "gene", origin.allocation, str(origin.share))  # lives go on with what was cut
        genotype = one_shot_genotype(tensors, world.layout, counts, origin.method, seed)
        cut = norm_fitted(gather(tensors, world.layout, genotype), genotype, world, derive(SEED, "norms"))
        for life in range(origin.lives):
            cut = lived(world, origin, genotype, cut, life, say)
        share = world.layout.circuit_share(genotype.counts)
        found.append(Candidate(origin, genotype, cut, gene_start(world.host, genotype, cut), share))
        say(f"gene {number + 1}: {origin}")
    return found


def allocated(world: World, origin: Origin, searched: Mapping[str, float]) -> dict[str, int]:
    """Channels per group."""
    share = origin.share
    if origin.allocation == SEARCHED:
        return scale_allocation(dict(searched), world.layout, share)
    if origin.allocation == DRAWN:
        draw = rng(SEED, "drawn", str(share))
        return draw_allocation(draw, world.layout, GeneSection(budget=share, initial_share=(share, share)))
    return allocation(world.layout, origin.allocation, share)


def ancestor(world: World, length: float, say: Say) -> GeneTensors:
    """A whole network trained with the founders' recipe for this share of their epochs."""
    steps = max(1, round(length * ancestor_steps(world.config, len(world.train.labels))))

    def make() -> GeneTensors:
        say(f"training an ancestor for {steps} steps")
        network, result = pretrain(world, steps, derive(SEED, "ancestor"))
        if not result.finite:
            raise EvolutionError(f"an ancestor diverged (loss {result.loss})")
        return gather(network.state_dict(), world.layout, world.layout.full())

    recipe = world.config.founders.training.model_dump(mode="json")
    return kept_tensors(world, {"kind": "critics: ancestor", "steps": steps, "recipe": recipe, "at": SEED}, make)


def lived(world: World, origin: Origin, genotype: Genotype, tensors: GeneTensors, life: int, say: Say) -> GeneTensors:
    """The gene after a life in a reborn host, as evolution has them."""

    def make() -> GeneTensors:
        say(f"life {life + 1} of {origin}")
        seed = derive(SEED, "life", life)
        parent = ParentGene("before", "", genotype)
        job = Job(f"life-{life}", life + 1, genotype, (parent,), lives=True, seed=seed, critic_seed=seed, critic_tasks=1,
                  task_seed=derive(seed, "task"))  # fmt: skip
        found, evaluation = evaluate(job, [tensors], world)
        if found is None:
            raise EvolutionError(f"life {life + 1} of {origin} failed: {evaluation.reason}")
        return found

    key = {
        "kind": "critics: life", "parent": gene_start(world.host, genotype, tensors).digest, "life": life, "at": SEED,
        "recipe": world.config.life.model_dump(mode="json"),
    }  # fmt: skip
    return kept_tensors(world, key, make)


def relative_shares(genotype: Genotype) -> dict[str, float]:
    """Kept channels of every group as a share of all."""
    return {group: len(mask) / mask.size for group, mask in genotype.items()}


def of_whole(found: Sequence[Candidate]) -> list[int]:
    """Positions of the genes that descend from the whole ancestor, as those of one evolution do."""
    return [index for index, candidate in enumerate(found) if candidate.origin.ancestor == WHOLE]


def well_spent(found: Sequence[Candidate]) -> list[int]:
    """Positions of the genes whose budget lies where it pays, as it does in an evolution after a few generations."""
    return [index for index, candidate in enumerate(found) if candidate.origin.allocation in ("early", SEARCHED)]
