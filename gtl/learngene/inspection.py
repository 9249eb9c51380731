"""Look into one learngene: its size and what it costs to run, counted here and not believed, and whether it runs alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import conv_flop_count

from gtl.data.request import LARGEST, SMALLEST
from gtl.errors import ConfigError
from gtl.learngene.artifact import Learngene
from gtl.learngene.gene_images import image_size
from gtl.learngene.records import shares
from gtl.models import ArchSpec, build, gene_layout
from gtl.phenotype import thin_network
from gtl.seeds import derive

NOISE_IMAGES = 2


@dataclass(frozen=True)
class GroupSize:
    """One channel group of a gene.

    Attributes:
        group: its name.
        kept, size: channels of the gene's, and of the ancestor's.
        parameters: of its convolutions in the circuit.
        flops: of its convolutions in the circuit, for one image.
    """

    group: str
    kept: int
    size: int
    parameters: int
    flops: int


@dataclass(frozen=True)
class Inspection:
    """What a learngene is, found by looking at it.

    Attributes:
        groups: group by group, in forward order.
        shares: size counted both ways, as the gene's own records have it if they are right.
        image_size: pixels a side of the images that are counted with.
        recorded: whether the gene's provenance says so.
        flops, network_flops: of the convolutions of the circuit and of the whole network, for one image; a multiplication
            and its addition are two. Norms, rectifiers, pooling and the classifier are not counted.
        runs_alone: whether its thin network gives finite activations and features for a black image and for noise.
        silent: channels that answer noise as they answer the black image.
        notes: what its own records say otherwise.
    """

    groups: tuple[GroupSize, ...]
    shares: dict[str, float | int]
    image_size: int
    recorded: bool
    flops: int
    network_flops: int
    runs_alone: bool
    silent: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def inspect(gene: Learngene, pixels: int | None = None) -> Inspection:
    """Look into a learngene. It runs once, on a black image and noise.

    Args:
        pixels: a side of the images to count with; None: of those that it was evolved on.

    Raises:
        ConfigError: a size that the networks are not built for.
    """
    if pixels is not None and not SMALLEST <= pixels <= LARGEST:
        raise ConfigError(f"images of {pixels} pixels: the networks are built for {SMALLEST} to {LARGEST}")
    layout, counts = gene_layout(gene.arch, gene.genotype.sizes), gene.genotype.counts
    size, recorded = image_size(gene) if pixels is None else (pixels, True)
    flops = count_flops(gene.arch, counts, size)
    parameters = dict(zip(layout.convolutions, layout.kernel_sizes(counts), strict=True))
    groups = tuple(
        GroupSize(
            group,
            len(mask),
            mask.size,
            sum(parameters[name] for name in layout.convolutions if layout.owner(name) == group),
            sum(flops[name] for name in layout.convolutions if layout.owner(name) == group),
        )
        for group, mask in gene.genotype.items()
    )
    counted = shares(layout, gene.genotype)
    finite, silent = _run_alone(gene, size)
    whole = sum(count_flops(gene.arch, layout.groups, size).values())
    notes = tuple(
        f"its records say {name} {gene.shares[name]:g}, counted are {value:g}"
        for name, value in counted.items()
        if name in gene.shares and gene.shares[name] != value
    )
    return Inspection(groups, counted, size, recorded, sum(flops.values()), whole, finite, silent, notes)


@torch.no_grad()
def count_flops(arch: str, widths: Mapping[str, int], pixels: int) -> dict[str, int]:
    """Floating-point operations of every convolution, by its weight's name, for one image of `pixels` a side.

    Torch's formula (`torch.utils.flop_counter`), given the shapes: places do not depend on widths, so they are seen on a
    network of one channel a group, and the widths may be any. Torch's counting mode would load its compiler, for seconds.
    """
    layout, found = gene_layout(arch, widths), dict[str, int]()

    def count(name: str, conv: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
        found[name] = conv_flop_count(list(given[0].shape), list(layout.shapes[name]), list(out.shape))

    narrow = build(ArchSpec(arch, tuple((group, 1) for group in widths), 1)).eval()
    for name in layout.convolutions:
        narrow.get_submodule(name.removesuffix(".weight")).register_forward_hook(partial(count, name))
    narrow.features(torch.zeros(1, 3, pixels, pixels))
    return {name: found[name] for name in layout.convolutions}


@torch.no_grad()
def _run_alone(gene: Learngene, pixels: int) -> tuple[bool, int]:
    """Whether all that the thin network computes is finite, and how many channels tell noise from black nowhere."""
    network = thin_network(gene.arch, gene.genotype, gene.tensors)
    generator = torch.Generator().manual_seed(derive(0, "inspection noise"))
    noise = torch.randn(NOISE_IMAGES, 3, pixels, pixels, generator=generator)
    images = torch.cat([torch.zeros(1, 3, pixels, pixels), noise])
    found = network.activations(images)
    finite = all(bool(torch.isfinite(each).all()) for each in (*found.values(), network.features(images)))
    return finite, sum(int((each == each[:1]).all(dim=(0, 2, 3)).sum()) for each in found.values())
