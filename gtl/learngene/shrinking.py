"""Shrink a learngene to a budget: its most important channels, still a whole circuit."""

from __future__ import annotations

import numpy as np

from gtl.config import CriticSection
from gtl.data.images import ImageSet
from gtl.errors import ConfigError
from gtl.evolution.founding import scale_allocation, top_channels
from gtl.genotype import ChannelMask, Genotype
from gtl.layout import ChannelLayout
from gtl.learngene.artifact import Learngene
from gtl.learngene.derived import HERE, derived, fitted
from gtl.learngene.gene_images import check_images
from gtl.learngene.oneshot import BY_IMAGES, BY_STATE, Scores, Sight, channel_scores, image_scores
from gtl.models import gene_layout
from gtl.phenotype import thin_network
from gtl.surgery import gather
from gtl.training import Compute

METHODS = (*BY_STATE, *BY_IMAGES)
ALLOCATIONS = ("greedy", "proportional")
OLD_NORMS = (
    "the norms' statistics were measured while the channels that are gone were there; images (--images) would let them be "
    "estimated anew"
)


def shrink(
    gene: Learngene,
    budget: float,
    *,
    method: str = "bn",
    allocation: str = "greedy",
    images: ImageSet | None = None,
    compute: Compute = HERE,
    seed: int = 0,
) -> Learngene:
    """The most important channels of a learngene, as many as a budget holds, at least one of every group.

    Args:
        gene: the gene; one that is within the budget already is returned as it is.
        budget: largest share of the ancestor's convolution parameters that the circuit may hold, above 0, up to 1.
        method: the score of channels within a group, one of METHODS (`gtl.learngene.oneshot.channel_scores`), taken on the
            gene's own circuit.
        allocation: how many of each group: ``greedy`` removes one channel after the other, each time the one that takes
            the least share of its group's remaining score with it for every parameter that it frees; ``proportional``
            keeps the same share of every group's channels.
        images: of train classes, to estimate the norms' statistics on, and for the scores that look at images; None: the
            statistics stay as they were.
        compute: where to compute.
        seed: draws images, and channels for the score ``random``.

    Returns:
        A gene without evidence; ``provenance["derived"]["notes"]`` says what to mind.

    Raises:
        ConfigError: no such method or allocation, a method that needs images, or a budget that cannot be kept.
        NovelClassesError: images of novel classes.
    """
    _check(budget, method, allocation, images)
    if images is not None:
        check_images([gene], images, "the choice of channels and the estimation of norms")
    full, counts = gene_layout(gene.arch, gene.genotype.sizes), gene.genotype.counts
    if full.circuit_share(counts) <= budget:
        return gene
    least = full.circuit_share(dict.fromkeys(counts, 1))
    if budget < least:
        raise ConfigError(
            f"budget {budget:g}: one channel in every group of this {gene.arch} already holds a share of {least:.3g}; raise "
            "the budget"
        )
    circuit, most = gene_layout(gene.arch, counts), _parameters_within(budget, full)
    scores = _scores(gene, circuit, method, images, compute, seed)
    if allocation == "greedy":
        counts = _greedy(scores, circuit, most)
    else:
        counts = scale_allocation(dict.fromkeys(counts, 1.0), circuit, most / circuit.parameters)
    chosen = top_channels(counts, scores)
    genotype = Genotype(
        {g: ChannelMask(mask.size, mask.kept[chosen[g].kept].tolist()) for g, mask in gene.genotype.items()}
    )
    tensors, norms = fitted(gene.arch, genotype, gather(gene.tensors, circuit, chosen), images, compute, seed)
    how = {"budget": budget, "channels": method, "allocation": allocation, "norms": norms or "kept"}
    notes = [] if norms else [OLD_NORMS]
    return derived("a learngene shrunk to a budget", (gene,), genotype, tensors, how, notes, compute, seed)


def _check(budget: float, method: str, allocation: str, images: ImageSet | None) -> None:
    if not 0 < budget <= 1:
        raise ConfigError(f"budget {budget:g} is outside (0, 1]: it is a share of the network's convolution parameters")
    for what, given, known in (("method", method, METHODS), ("allocation", allocation, ALLOCATIONS)):
        if given not in known:
            raise ConfigError(f"unknown {what} {given!r}; known are {', '.join(known)}")
    if method in BY_IMAGES and images is None:
        raise ConfigError(
            f"the method {method!r} looks at images: give some (--images SOURCE), or take one of {', '.join(BY_STATE)}"
        )


def _scores(
    gene: Learngene, circuit: ChannelLayout, method: str, images: ImageSet | None, compute: Compute, seed: int
) -> Scores:
    """Worth of every channel of the gene, by its place among the kept ones."""
    if images is None or method in BY_STATE:
        return channel_scores(gene.tensors, circuit, method, seed)
    network = thin_network(gene.arch, gene.genotype, gene.tensors)
    return image_scores(network, method, Sight(images, compute, CriticSection().ridge), seed)


def _parameters_within(budget: float, layout: ChannelLayout) -> int:
    """The most parameters whose share, as it is rounded, is within the budget."""
    most = int(budget * layout.parameters) + 1
    while most / layout.parameters > budget:
        most -= 1
    return most


def _greedy(scores: Scores, layout: ChannelLayout, most: int) -> dict[str, int]:
    """Channels per group when one after the other is gone, each time the one that takes least with it a parameter.

    What a channel takes is its share of the score that its group still has: so the product of the groups' scores stays
    large, and no group runs dry. What it costs, its own kernels and what the next groups read of it, is counted in the
    whole gene: counted anew each time, a group that shrinks would make its neighbours cheap, and they would stay whole
    while it empties.
    """
    counts, prices = dict(layout.groups), []
    for group, found in scores.items():
        cost = layout.parameters - layout.circuit_parameters({**counts, group: counts[group] - 1})
        rising = np.sort(found)
        rest = np.cumsum(rising[::-1])[::-1]
        shares = np.divide(rising, rest, out=np.zeros_like(rising), where=rest > 0)
        prices += [(share / cost, group) for share in shares[:-1].tolist()]  # shares rise, and the last channel stays
    for _, group in sorted(prices, key=lambda price: price[0]):
        if layout.circuit_parameters(counts) <= most:
            break
        counts[group] -= 1
    return counts
