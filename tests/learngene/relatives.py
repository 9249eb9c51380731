"""Genes of one network, to be compared and put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from pico import ARCHS, GROUPS, random_genotype, spec, stir

from gtl.genotype import ChannelMask, Genotype
from gtl.learngene.artifact import Learngene
from gtl.models import ArchSpec, ConvNet, build
from gtl.surgery import gather


def gene_of(network: ConvNet, genotype: Genotype, **records: Any) -> Learngene:
    """These channels of a network as a learngene."""
    return Learngene(network.spec.arch, genotype, gather(network.state_dict(), network.layout, genotype), **records)


def gene(
    arch: str = "vgg11", width: int = 6, seed: int = 0, weights: int = 0, share: float = 0.5, **records: Any
) -> Learngene:
    """A gene of a lively network: `weights` seeds the network, `seed` the channels."""
    network = stir(build(spec(arch, width), weights), weights)
    return gene_of(network, random_genotype(network.widths, seed, share), **records)


@st.composite
def relatives(draw: st.DrawFn, count: int = 2, most: int = 5, overlap: bool = False) -> list[Learngene]:
    """Genes of one architecture and one set of widths, each of a network of its own.

    Args:
        overlap: whether all of them keep the first channel of every group.
    """
    arch = draw(st.sampled_from(ARCHS))
    widths = tuple((group, draw(st.integers(1, most))) for group in GROUPS[arch])
    genes = []
    for _ in range(count):
        seed = draw(st.integers(0, 2**31))
        network = stir(build(ArchSpec(arch, widths, 2), seed), seed)
        genes.append(gene_of(network, draw(genotypes(dict(widths), overlap))))
    return genes


@st.composite
def genotypes(draw: st.DrawFn, widths: Mapping[str, int], first: bool) -> Genotype:
    """Any channels of every group, at least one; `first`: always the first among them."""
    masks = {}
    for group, width in widths.items():
        kept = draw(st.sets(st.integers(0, width - 1), min_size=0 if first else 1))
        masks[group] = ChannelMask(width, kept | {0} if first else kept)
    return Genotype(masks)
