"""What happens in a worker process: the world is built once, then one call after the other computes in it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from gtl.config import Config
from gtl.data.augment import Augmenter
from gtl.data.images import ImageSet, Role
from gtl.individual import Evaluation, Job
from gtl.learngene import container
from gtl.life import World
from gtl.models import ArchSpec
from gtl.population.evaluator import attempt, attempt_pack
from gtl.training import resolve_compute
from gtl.versions import versions


@dataclass(frozen=True)
class PlainImages:
    """An ImageSet as numpy arrays: Ray keeps those in shared memory, one copy for all workers of a node.

    Attributes:
        images: with `pad` pixels more on every side, so that no worker has to make a padded copy of its own.
    """

    images: np.ndarray
    pad: int
    labels: np.ndarray
    class_names: tuple[str, ...]
    role: Role
    source: str
    mirror: bool


@dataclass(frozen=True)
class PlainWorld:
    """A World without tensors and without a device."""

    config: Config
    host: ArchSpec
    train: PlainImages
    val: PlainImages
    class_lists: Mapping[str, tuple[str, ...]]
    class_digest: str


def plain(world: World) -> PlainWorld:
    """For sending."""
    return PlainWorld(
        world.config,
        world.host,
        _plain(world.train, world.padded),
        _plain(world.val),
        world.class_lists,
        world.class_digest,
    )


def prepare(shared: PlainWorld) -> tuple[dict[str, str], World]:
    """In the worker: its versions, and the world on the device that it was given."""
    compute = resolve_compute(shared.config.compute)
    (train, crops), (val, _) = _images(shared.train), _images(shared.val)
    world = World(shared.config, shared.host, train, val, compute, shared.class_lists, shared.class_digest, crops)
    return versions(compute), world


def live(world: World, plain_job: bytes, *plain_genes: bytes) -> tuple[bytes | None, Evaluation]:
    """A life. Genes travel as the bytes of their files, and the job as JSON: Ray takes six times as long for the object."""
    job = Job.from_json(json.loads(plain_job))
    genes = [container.decode(bytes(gene)) for gene in plain_genes]
    tensors, evaluation = attempt(job, lambda _: genes, world, memory_passes=True)
    return None if tensors is None else container.encode(tensors), evaluation


def live_pack(
    world: World, plain_jobs: tuple[bytes, ...], *plain_genes: bytes
) -> tuple[tuple[bytes | None, Evaluation], ...]:
    """Lives of a pack, as `live` has one.

    Args:
        plain_genes: of the first job, then of the second, and so on.
    """
    jobs = [Job.from_json(json.loads(plain_job)) for plain_job in plain_jobs]
    genes = (container.decode(bytes(gene)) for gene in plain_genes)
    tensors = {job.individual: list(islice(genes, len(job.genes))) for job in jobs}
    judged = attempt_pack(jobs, lambda job: tensors[job.individual], world, memory_passes=True)
    return tuple((None if gene is None else container.encode(gene), evaluation) for gene, evaluation in judged)


def compute(world: World, function: Callable[..., Any], *args: Any) -> Any:
    """Anything else that needs the world, such as the ancestor's training."""
    return function(world, *args)


def _plain(images: ImageSet, crops: Augmenter | None = None) -> PlainImages:
    pixels, pad = (images.images, 0) if crops is None else (crops.padded, crops.pad)
    return PlainImages(
        pixels.numpy(), pad, images.labels.numpy(), images.class_names, images.role, images.source, images.mirror
    )


def _images(found: PlainImages) -> tuple[ImageSet, Augmenter]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the arrays are read-only, and nothing here writes to them
        pixels, labels = torch.from_numpy(found.images), torch.from_numpy(found.labels)
    crops = Augmenter.of_padded(pixels, found.pad, found.mirror)
    return ImageSet(crops.images, labels, found.class_names, found.role, found.source, found.mirror), crops
