"""Starts that a learngene is compared with, made with the same recipe and the same number of training images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from gtl import storage
from gtl.critic import Gene, criticise, draw_tasks
from gtl.data.cache import cache_dir
from gtl.errors import EvolutionError, StorageError
from gtl.evolution.founding import ALLOCATIONS, allocation
from gtl.fewshot import Start
from gtl.genotype import Genotype
from gtl.learngene.founders import pretrain
from gtl.learngene.oneshot import METHODS, one_shot_genotype
from gtl.life import World, norm_fitted
from gtl.models import ArchSpec, build
from gtl.phenotype import newborn
from gtl.seeds import derive
from gtl.surgery import GeneTensors, gather
from gtl.versions import versions


@dataclass(frozen=True)
class OneShot:
    """The best one-shot gene of a network at a given size, chosen on validation classes.

    Attributes:
        method: score that chose its channels.
        allocation: ``uniform``, ``early``, or ``gene`` (the learngene's own counts per group).
        fitness: critic accuracy that it was chosen by.
    """

    method: str
    allocation: str
    genotype: Genotype
    tensors: GeneTensors
    fitness: float


def scratch_start(host: ArchSpec) -> Start:
    """Nothing inherited: a random network."""
    return lambda classes, seed: build(ArchSpec(host.arch, host.widths, classes), seed)


def gene_start(host: ArchSpec, genotype: Genotype, tensors: Mapping[str, torch.Tensor]) -> Start:
    """A gene inserted into a random network, as `gtl.inherit` does; the full genotype is full transfer."""
    return lambda classes, seed: newborn(ArchSpec(host.arch, host.widths, classes), genotype, tensors, seed)


def pretrained_tensors(world: World, images: int, say: Callable[[str], None] = lambda text: None) -> GeneTensors:
    """A whole network trained on the train classes with the founders' recipe for `images` images; head excluded.

    Kept in the cache folder under a hash of everything that it depends on.

    Raises:
        EvolutionError: its training diverged.
    """
    config = world.config
    steps = max(1, images // min(config.founders.training.batch_size, len(world.train.labels)))
    key = {
        "host": world.host.widths,
        "arch": world.host.arch,
        "training": config.founders.training.model_dump(mode="json"),
        "classes": world.class_digest,
        "pixels": hashlib.sha256(world.train.images.numpy().tobytes()).hexdigest(),
        "steps": steps,
        "seed": config.seed,
        "versions": versions(world.compute),
    }
    name = f"pretrained-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.safetensors"
    path = cache_dir() / name
    with suppress(FileNotFoundError, OSError, SafetensorError):
        cached = load_file(path)
        if {n: tuple(t.shape) for n, t in cached.items()} == {
            n: world.layout.shapes[n] for n in world.layout.inherited
        }:
            return cached
    say(f"reference: training a whole network on {images:,} images, as many as the gene cost")
    network, result = pretrain(world, steps, derive(config.seed, "reference"))
    if not result.finite:
        raise EvolutionError(
            f"the reference network diverged (loss {result.loss}); lower founders.training.learning_rate"
        )
    tensors = gather(network.state_dict(), world.layout, world.layout.full())
    with suppress(StorageError, OSError):  # the cache is a convenience: without it the reference is trained again
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.publish(path, save(tensors), overwrite=True)
    return tensors


def best_one_shot(world: World, tensors: GeneTensors, learngene: Genotype) -> OneShot:
    """The strongest one-shot gene of the learngene's size from a trained network: all scores x all allocations.

    Candidates are ranked by the run's own critic on validation classes; novel classes are not seen.
    """
    layout, section = world.layout, world.config.critic
    share = layout.circuit_share(learngene.counts)
    seed = derive(world.config.seed, "one-shot")
    tasks = draw_tasks(world.val, section, seed, section.final_tasks)
    allocations = {kind: allocation(layout, kind, share) for kind in ALLOCATIONS} | {"gene": learngene.counts}
    candidates = []
    for kind, counts in allocations.items():
        for method in METHODS:
            genotype = one_shot_genotype(tensors, layout, counts, method, world.config.seed)
            cut = norm_fitted(gather(tensors, layout, genotype), genotype, world, seed)
            scores = criticise(Gene(world.host, genotype, cut), tasks, section, seed, world.compute)
            candidates.append(OneShot(method, kind, genotype, cut, sum(scores) / len(scores)))
    return max(candidates, key=lambda candidate: candidate.fitness)
