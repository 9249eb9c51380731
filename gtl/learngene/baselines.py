"""Starts that a learngene is compared with, made with the same recipe and the same number of training images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from gtl import storage
from gtl.data.cache import cache_dir
from gtl.errors import EvolutionError, StorageError
from gtl.evolution.founding import ALLOCATIONS, allocation
from gtl.genotype import Genotype
from gtl.learngene.founders import pretrain, training_steps
from gtl.learngene.oneshot import METHODS, OneShot, one_shot, picker
from gtl.life import World
from gtl.seeds import derive
from gtl.surgery import GeneTensors, gather
from gtl.versions import code_digest, versions


def pretrained_tensors(world: World, images: int, say: Callable[[str], None] = lambda text: None) -> GeneTensors:
    """A whole network trained on the train classes with the founders' recipe for `images` images; head excluded.

    Raises:
        EvolutionError: its training diverged.
    """
    config = world.config
    steps = training_steps(world, images)

    def make() -> GeneTensors:
        say(f"reference: training a whole network on {images:,} images, as many as the gene cost")
        network, result = pretrain(world, steps, derive(config.seed, "reference"))
        if not result.finite:
            raise EvolutionError(
                f"the reference network diverged (loss {result.loss}); lower founders.training.learning_rate"
            )
        return gather(network.state_dict(), world.layout, world.layout.full())

    training = config.founders.training.model_dump(mode="json")
    return kept_tensors(world, {"kind": "pretrained", "training": training, "steps": steps}, make)


def kept_tensors(world: World, key: Mapping[str, Any], make: Callable[[], GeneTensors]) -> GeneTensors:
    """What `make` gives, from the cache folder if it was made before.

    Args:
        world: its network, train images, seed and compute are part of what the result depends on.
        key: JSON: whatever else it depends on.
    """
    whole = {
        **key,
        "host": world.host.widths,
        "arch": world.host.arch,
        "classes": world.class_digest,
        "pixels": world.train.digest,
        "seed": world.config.seed,
        "versions": versions(world.compute),
        "code": code_digest(),
    }
    name = f"tensors-{hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:40]}.safetensors"
    path = cache_dir() / name
    with suppress(FileNotFoundError, OSError, SafetensorError):
        return load_file(path)
    tensors = {name: tensor.detach().contiguous() for name, tensor in make().items()}
    with suppress(StorageError, OSError):  # the cache is a convenience: without it all is made again
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.publish(path, save(tensors), overwrite=True)
    return tensors


def one_shots(world: World, tensors: GeneTensors, learngene: Genotype) -> list[OneShot]:
    """One-shot genes of the learngene's size from a trained network: all methods x all allocations, the fittest first.

    They are ranked by the run's own critic on validation classes; novel classes are not seen.
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
