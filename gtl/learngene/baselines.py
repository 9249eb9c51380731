"""Starts that a learngene is compared with, made with the same recipe and the same number of training images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from gtl import storage
from gtl.data.cache import cache_dir
from gtl.errors import EvolutionError, StorageError
from gtl.evolution.founding import ALLOCATIONS, allocation
from gtl.fewshot import Start
from gtl.genotype import Genotype
from gtl.learngene.founders import pretrain
from gtl.learngene.oneshot import METHODS, OneShot, one_shot, picker
from gtl.life import World
from gtl.models import ArchSpec, build
from gtl.phenotype import newborn
from gtl.seeds import derive
from gtl.surgery import GeneTensors, gather
from gtl.versions import versions


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


def one_shots(
    world: World, tensors: Mapping[str, torch.Tensor], allocations: Mapping[str, Mapping[str, int]]
) -> list[OneShot]:
    """All candidates: every method with every allocation, on the same critic tasks of validation classes.

    Args:
        tensors: of the whole trained network.
        allocations: name -> channels per group.
    """
    candidates = []
    for method in METHODS:
        pick = picker(tensors, world.layout, method, world.config.seed, world)
        candidates += [
            one_shot(world, tensors, counts, method, allocation=name, pick=pick) for name, counts in allocations.items()
        ]
    return candidates


def best_one_shot(world: World, tensors: GeneTensors, learngene: Genotype) -> OneShot:
    """The strongest one-shot gene of the learngene's size from a trained network: all methods x all allocations.

    Candidates are ranked by the run's own critic on validation classes; novel classes are not seen.
    """
    share = world.layout.circuit_share(learngene.counts)
    allocations = {kind: allocation(world.layout, kind, share) for kind in ALLOCATIONS} | {"gene": learngene.counts}
    return max(one_shots(world, tensors, allocations), key=lambda candidate: candidate.fitness)
