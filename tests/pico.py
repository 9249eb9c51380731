"""The smallest networks, images, configurations and genes that behave like real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gtl.config import Config
from gtl.data.images import ImageSet, Role
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Individual, Job, ParentGene, Status
from gtl.life import World
from gtl.models import FAMILIES, ArchSpec, ConvNet
from gtl.training import Compute

CPU = Compute(torch.device("cpu"), None)
GROUPS = {arch: tuple(next(iter(family.base_widths.values()))) for arch, family in FAMILIES.items()}
ARCHS = tuple(GROUPS)


def spec(arch: str = "vgg11", width: int = 4, classes: int = 3) -> ArchSpec:
    """A network with the same few channels in every group."""
    return ArchSpec(arch, tuple((group, width) for group in GROUPS[arch]), classes)


def random_genotype(sizes: Mapping[str, int], seed: int, share: float | None = None) -> Genotype:
    """Random channels of every group: about `share` of them, or a random number."""
    draw = np.random.default_rng(seed)
    masks = {}
    for group, size in sizes.items():
        count = int(draw.integers(1, size + 1)) if share is None else max(1, round(share * size))
        masks[group] = ChannelMask(size, draw.choice(size, count, replace=False))
    return Genotype(masks)


def stir(network: ConvNet, seed: int) -> ConvNet:
    """Give every norm statistics, scales and shifts that are far from those of a new one. In place; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            size = module.num_features
            module.weight.data = torch.randn(size, generator=generator) + 0.5
            module.bias.data = torch.randn(size, generator=generator)
            module.running_mean = torch.randn(size, generator=generator)
            module.running_var = torch.rand(size, generator=generator) + 0.2
            module.num_batches_tracked = torch.tensor(7)
    return network.eval()


def noise(count: int = 3, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A batch of network inputs."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def gratings(
    classes: int, each: int, role: Role = "train", seed: int = 0, size: int = 16, noisy: float = 1.0
) -> ImageSet:
    """Noisy gratings of random phase and colour; a class is an orientation. Roles have different orientations."""
    draw = np.random.default_rng([seed, ("train", "val", "novel").index(role)])
    shift = {"train": 0.0, "val": 0.33, "novel": 0.67}[role]
    y, x = np.mgrid[0:size, 0:size]
    images = []
    for label in range(classes):
        angle = math.pi * (label + shift) / classes
        along = x * math.cos(angle) + y * math.sin(angle)
        for _ in range(each):
            wave = np.sin(along * 1.6 + draw.uniform(0, 2 * math.pi))[..., None] * draw.uniform(0.3, 1.0, 3)
            images.append(wave + noisy * draw.standard_normal((size, size, 3)))
    pixels = (np.clip(np.stack(images) * 40 + 128, 0, 255)).astype(np.uint8)
    labels = torch.arange(classes).repeat_interleave(each)
    names = tuple(f"{role}-{label}" for label in range(classes))
    return ImageSet(torch.from_numpy(pixels), labels, names, role, "gratings", False)


def config(**sections: Mapping[str, Any] | Any) -> Config:
    """A configuration of tiny lives; `sections` are laid over it, key by key."""
    values: dict[str, Any] = {
        "name": "pico",
        "data": {"source": "glyphs"},
        "gene": {"budget": 0.5, "initial_share": (0.1, 0.5)},
        "founders": {"epochs": 2.0, "training": {"batch_size": 8, "crop_padding": 1}},
        "evolution": {"population": 4, "generations": 2, "tournament": {"size": 2, "elite": 1}},
        "life": {"steps": 3, "n_way": 3, "training": {"batch_size": 8, "crop_padding": 1}},
        "critic": {"fit_images": 3, "score_images": 4, "final_tasks": 2, "steps": 2},
        "fewshot": {"shots": (3,), "test_images": 4, "seeds": 2, "steps": 3, "training": {"batch_size": 8, "crop_padding": 1}},
        "compute": {"device": "cpu", "precision": "float32"},
    }  # fmt: skip
    return Config.model_validate(merged(values, sections))


def world(arch: str = "vgg11", width: int = 4, classes: int = 4, each: int = 8, **sections: Any) -> World:
    """A world of gratings; `sections` as in `config`."""
    settled = config(**sections)
    return World(
        settled,
        spec(arch, width, settled.life.n_way),
        gratings(classes, each, "train"),
        gratings(classes, each, "val"),
        CPU,
    )


def job(genotype: Genotype, parents: tuple[ParentGene, ...] = (), **changes: Any) -> Job:
    """A job with a life; `changes` are its fields."""
    fields: dict[str, Any] = {
        "individual": "g0001-i0000", "generation": 1, "genotype": genotype, "parents": parents, "lives": True,
        "seed": 11, "critic_seed": 12, "critic_tasks": 1, "task_seed": 13,
    }  # fmt: skip
    return Job(**{**fields, **changes})


def individual(name: str, score: float | None = 0.5, **fields: Any) -> Individual:
    """An evaluated individual; score None: one that failed. Its genotype is full unless given."""
    genotype = fields.pop("genotype", Genotype.full(dict.fromkeys(GROUPS["vgg11"], 4)))
    failed = Evaluation(Status.DIVERGED, reason="loss nan")
    evaluation = failed if score is None else Evaluation(Status.OK, min(1.0, max(0.0, score)))
    fields = {"generation": 0, "gene": "" if score is None else name, "evaluation": evaluation, **fields}
    return Individual(id=name, genotype=genotype, score=-math.inf if score is None else score, **fields)


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are the same, bit for bit."""
    return list(one) == list(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def within_binomial(successes: int, trials: int, p: float, sigmas: float = 5.0) -> bool:
    """Whether a count lies within so many standard deviations of its expectation."""
    return abs(successes - trials * p) <= sigmas * math.sqrt(trials * p * (1 - p))


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, `high` over `low`."""
    result = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(low.get(key), Mapping)
        result[key] = merged(low[key], value) if both else value
    return result
