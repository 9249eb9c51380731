"""Condense: the finalists of a run meet the same tasks, and the best becomes the learngene, with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gtl.config_file import config_hash
from gtl.errors import EvolutionError
from gtl.evolution.fitness import raw_score
from gtl.individual import Individual
from gtl.learngene.artifact import Learngene
from gtl.learngene.records import make_learngene, plain_config
from gtl.life import World
from gtl.lineage import Lineage
from gtl.population.evaluator import Evaluator, GeneStore
from gtl.population.founding import Ancestor
from gtl.population.manager import Manager


def condense(
    manager: Manager, evaluator: Evaluator, genes: GeneStore, lineage: Lineage, world: World, ancestor: Ancestor
) -> Learngene:
    """The learngene of a finished evolution.

    Raises:
        EvolutionError: no finalist could be evaluated.
    """
    finalists = manager.finalists()
    individuals = {individual.id: individual for individual, _ in finalists}
    for outcome in evaluator.evaluate([job for _, job in finalists]):
        individuals[outcome.individual].evaluation = outcome.evaluation
        individuals[outcome.individual].gene = outcome.gene
    score = world.config.evolution.score
    best = max(individuals.values(), key=lambda i: (raw_score(i, world.layout, score), i.id))
    if best.evaluation is None or not best.ok:
        reason = best.evaluation.reason if best.evaluation else ""
        raise EvolutionError(f"none of the {len(finalists)} finalists could be evaluated: {reason}")
    tensors = genes.get(best.gene)
    return make_learngene(
        world, best.genotype, tensors, _provenance(manager, best, lineage, world, ancestor, evaluator.versions)
    )


def _provenance(
    manager: Manager,
    best: Individual,
    lineage: Lineage,
    world: World,
    ancestor: Ancestor,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Where the gene comes from: what is needed to make it again, and what it cost."""
    assert best.evaluation is not None
    parent = best.parents[0]
    return {
        "method": "genetic transfer learning",
        "config": plain_config(world.config),
        "config_hash": config_hash(world.config),
        "data": {"source": world.train.source, "classes": world.class_digest, "lists": world.class_lists},
        "seed": world.config.seed,
        "versions": dict(versions),
        "generations": manager.generation,
        "winner": {
            "parents": list(best.parents),
            "fitness": best.evaluation.fitness,
            "line": [
                {"id": step.id, "generation": step.generation, "fitness": step.fitness} for step in lineage.line(parent)
            ]
            if parent in lineage
            else [],
        },
        "critic": {"kind": world.config.critic.kind, "reference": dict(ancestor.reference)},
        "images": _images(manager, ancestor, world),
    }


def _images(manager: Manager, ancestor: Ancestor, world: World) -> dict[str, int | None]:
    """Training images of ancestor and lives; what a checkpoint cost nobody here knows, so neither is the sum known."""
    if world.config.founders.checkpoint is not None:
        return {"ancestor": None, "lives": manager.images, "total": None}
    return {"ancestor": ancestor.images, "lives": manager.images, "total": ancestor.images + manager.images}
