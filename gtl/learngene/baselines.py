"""Starts that a learngene is compared with, made with the same recipe and the same number of training images."""

from __future__ import annotations

from collections.abc import Callable

from gtl.evolution.founding import ALLOCATIONS, allocation
from gtl.genotype import Genotype
from gtl.learngene.founders import RATE, check_finite, pretrain, training_steps
from gtl.learngene.kept import kept_tensors
from gtl.learngene.oneshot import METHODS, OneShot, one_shot, picker
from gtl.life import World
from gtl.seeds import derive
from gtl.surgery import GeneTensors, gather


def pretrained_tensors(world: World, images: int, say: Callable[[str], None] = lambda text: None) -> GeneTensors:
    """A whole network trained on the train classes with the founders' recipe for `images` images; head excluded.

    Raises:
        EvolutionError: its training diverged.
    """
    config = world.config
    steps = training_steps(world, config.founders.training, images)

    def make() -> GeneTensors:
        say(f"reference: training a whole network on {images:,} images, as many as the gene cost")
        network, result = pretrain(world, steps, derive(config.seed, "reference"))
        check_finite(result, "the reference network", RATE, config.founders.training)
        return gather(network.state_dict(), world.layout, world.layout.full())

    training = config.founders.training.model_dump(mode="json")
    return kept_tensors(world, {"kind": "pretrained", "training": training, "steps": steps}, make)


def one_shots(world: World, tensors: GeneTensors, learngene: Genotype) -> list[OneShot]:
    """One-shot genes of the learngene's size from a trained network: all methods x all allocations, the fittest first.

    They are ranked by the run's own critic, at all depths, on validation classes; novel classes are not seen.
    """
    share = world.layout.circuit_share(learngene.counts)
    allocations = {kind: allocation(world.layout, kind, share) for kind in ALLOCATIONS} | {"gene": learngene.counts}
    candidates = []
    for method in METHODS:
        pick = picker(tensors, world.layout, method, world.config.seed, world)
        candidates += [
            one_shot(world, tensors, counts, method, allocation=name, pick=pick) for name, counts in allocations.items()
        ]
    return sorted(candidates, key=lambda candidate: -candidate.fitness)
