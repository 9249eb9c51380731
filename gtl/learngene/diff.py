"""What two learngenes have in common: channels, weights, what they compute, size, and what they were measured to be worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.errors import DataError
from gtl.learngene.artifact import Learngene
from gtl.learngene.cka import LEAST_BATCH, LinearCKA, gram
from gtl.learngene.derived import HERE, ancestry, why_apart
from gtl.learngene.gene_images import check_images
from gtl.learngene.placing import EPS
from gtl.learngene.records import look_up, shares
from gtl.models import FAMILIES, gene_layout
from gtl.phenotype import thin_network
from gtl.seeds import rng
from gtl.surgery import shared_part
from gtl.training import Compute, place

CKA_IMAGES = 1024  # at most
CKA_BATCH = 64


@dataclass(frozen=True)
class GroupDiff:
    """Two genes in one channel group.

    Attributes:
        group: its name.
        size: the ancestors' channels.
        both, only_a, only_b: channels that both keep, and that only one does.
        jaccard: both over either, 0..1.
        kernels: distance of the convolution weights between shared channels: norm of the difference over the root mean
            square of both norms; 0 for equal weights, about 1.41 for unrelated ones. None: there are none.
        norms: the same of the scales and shifts that the norms apply to shared channels.
    """

    group: str
    size: int
    both: int
    only_a: int
    only_b: int
    jaccard: float
    kernels: float | None
    norms: float | None


@dataclass(frozen=True)
class Likeness:
    """How alike two genes' activations are, by linear CKA (`gtl.learngene.cka`).

    Attributes:
        a, b: groups whose activations are compared.
        level: of resolution that they end, from 1, where the genes are of different architectures; else 0.
        cka: of all channels of both; None: those of one do not vary from image to image.
        shared: of the channels that both keep; None: the same, or there are none, or numbers do not compare.
    """

    a: str
    b: str
    level: int
    cka: float | None
    shared: float | None


@dataclass(frozen=True)
class GeneDiff:
    """Two learngenes side by side.

    Attributes:
        a, b: what each is: digest, architecture, kept channels, shares, fitness, evidence.
        equal: whether they are the same gene.
        ancestor: whether they come from the same ancestor: ``same``, ``different``, ``unknown``.
        refused: why channels and weights do not compare; "" if they do, and then the next four are there.
        groups: group by group.
        jaccard: over the channels of all groups.
        kernels, norms: distances over all groups.
        likeness: CKA on the images, if there were any.
        images: which: source, role, number, batch.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    equal: bool
    ancestor: str
    refused: str = ""
    groups: tuple[GroupDiff, ...] = ()
    jaccard: float | None = None
    kernels: float | None = None
    norms: float | None = None
    likeness: tuple[Likeness, ...] = ()
    images: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def diff(
    a: Learngene, b: Learngene, images: ImageSet | None = None, *, compute: Compute = HERE, seed: int = 0
) -> GeneDiff:
    """Compare two learngenes.

    Channels and weights compare where both are of one architecture and their ancestors of equal widths; what they compute
    compares always: group by group in one architecture, else at the ends of the levels of resolution, in their order.

    Args:
        a, b: the genes.
        images: of train or validation classes, on which both run as thin networks; None: what they compute is left out. At
            most CKA_IMAGES of them are drawn, and full batches of CKA_BATCH used.
        compute: where to run them.
        seed: draws the images.

    Raises:
        DataError: fewer than 4 images.
        NovelClassesError: novel classes.
    """
    refused = why_apart(a, b)
    found: dict[str, Any] = {"refused": refused}
    if not refused:
        pairs = [list(_weights(a, b, group)) for group in a.genotype]
        found["groups"] = tuple(_group(a, b, group, pair) for group, pair in zip(a.genotype, pairs, strict=True))
        found["jaccard"] = a.genotype.overlap(b.genotype)
        found |= {kind: _distance([p for pair in pairs for p in pair], kind) for kind in ("kernels", "norms")}
    if images is not None:
        check_images((a, b), images, "the comparison of two learngenes")
        found["likeness"], found["images"] = _likeness(a, b, images, not refused, compute, seed)
    return GeneDiff(about(a), about(b), a.digest == b.digest, ancestry(a, b), **found)


def about(gene: Learngene) -> dict[str, Any]:
    """A gene in short: what `diff` sets side by side."""
    return {
        "digest": gene.digest,
        "arch": gene.arch,
        "counts": gene.genotype.counts,
        "shares": shares(gene_layout(gene.arch, gene.genotype.sizes), gene.genotype),
        "fitness": look_up(gene.provenance, "winner", "fitness"),
        "evidence": evidence_rows(gene),
    }


def evidence_rows(gene: Learngene) -> list[dict[str, Any]]:
    """What descendants of a gene reached: source, class lists, shots, accuracy and gain of every entry of its evidence.

    Evidence may be of any shape; what is no document of ``gtl fewshot --json`` is left out.
    """
    rows = []
    for document in gene.evidence:
        results = look_up(document, "descendants")
        for result in results if isinstance(results, list) else []:
            numbers = [look_up(result, "accuracy", key) for key in ("mean", "low", "high", "n")]
            if look_up(result, "start") != "learngene" or not all(type(n) in (int, float) for n in numbers):
                continue
            rows.append(
                {
                    "source": str(look_up(document, "data", "source")),
                    "classes": str(look_up(document, "data", "classes")),
                    "shots": look_up(result, "shots"),
                    "accuracy": result["accuracy"],
                    "gain": look_up(result, "gain"),
                }
            )
    return rows


Pair = tuple[str, torch.Tensor, torch.Tensor]  # kind, a's and b's


def _weights(a: Learngene, b: Learngene, group: str) -> Iterator[Pair]:
    """What both have of a group's weights on shared channels."""
    layout = gene_layout(a.arch, a.genotype.counts)
    sides = ((a, b.genotype), (b, a.genotype))

    def parts(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        one, other = (shared_part(g.tensors, layout, g.genotype, o, name).double().flatten() for g, o in sides)
        return one, other

    for name in layout.convolutions:
        if layout.owner(name) == group:
            yield "kernels", *parts(name)
    for norm in layout.norms[group]:
        kinds = {kind: parts(f"{norm}.{kind}") for kind in ("weight", "bias", "running_mean", "running_var")}
        applied = []
        for side in (0, 1):
            weight, bias, mean, variance = (found[side] for found in kinds.values())
            scale = weight / (variance + EPS).sqrt()
            applied.append(torch.cat([scale, bias - mean * scale]))
        yield "norms", applied[0], applied[1]


def _group(a: Learngene, b: Learngene, group: str, pairs: list[Pair]) -> GroupDiff:
    one, other = a.genotype[group], b.genotype[group]
    both = int((one.bits & other.bits).sum())
    return GroupDiff(
        group,
        one.size,
        both,
        len(one) - both,
        len(other) - both,
        one.overlap(other),
        _distance(pairs, "kernels"),
        _distance(pairs, "norms"),
    )


def _distance(pairs: list[Pair], kind: str) -> float | None:
    chosen = [(one, other) for name, one, other in pairs if name == kind]
    one, other = (torch.cat(side) for side in zip(*chosen, strict=True))
    if not len(one):
        return None
    scale = float(((one.square().sum() + other.square().sum()) / 2).sqrt())
    return float((one - other).norm()) / scale if scale > 0 else 0.0


def _likeness(
    a: Learngene, b: Learngene, images: ImageSet, same_network: bool, compute: Compute, seed: int
) -> tuple[tuple[Likeness, ...], dict[str, Any]]:
    """CKA of every pair of groups that compare. Memory is that of one batch's activations and Gram matrices."""
    rows = torch.from_numpy(rng(seed, "cka images").permutation(len(images.labels))[:CKA_IMAGES])
    batch = min(CKA_BATCH, len(rows))
    if batch < LEAST_BATCH:
        raise DataError(f"{images.source} has {len(rows)} images; CKA needs at least {LEAST_BATCH}")
    batches = [part for part in torch.split(rows, batch) if len(part) == batch]
    pairs = _pairs(a, b)
    shared = {g: _places(a, b, g) for g, _, _ in pairs} if same_network else {}
    alike = {pair: (LinearCKA(), LinearCKA()) for pair in pairs}
    networks = [thin_network(gene.arch, gene.genotype, gene.tensors) for gene in (a, b)]
    for network in networks:
        place(network, compute)
    with torch.no_grad():
        for part in batches:
            inputs = to_input(images.images[part].to(compute.device), compute.memory_format)
            one, other = (network.activations(inputs) for network in networks)
            for (mine, yours, _), (everything, common) in alike.items():
                everything.add(gram(one[mine]), gram(other[yours]))
                places = shared.get(mine)
                if places is not None:
                    first, second = (p.to(compute.device) for p in places)
                    common.add(gram(one[mine][:, first]), gram(other[yours][:, second]))
    found = tuple(
        Likeness(mine, yours, level, everything.value, common.value if shared.get(mine) is not None else None)
        for (mine, yours, level), (everything, common) in alike.items()
    )
    used = {"source": images.source, "role": images.role, "images": batch * len(batches), "batch": batch}
    return found, used


def _pairs(a: Learngene, b: Learngene) -> list[tuple[str, str, int]]:
    """Groups whose activations compare, and the level that they end: all groups of one architecture, else level ends."""
    if a.arch == b.arch:
        return [(group, group, 0) for group in a.genotype]
    ends = [_level_ends(gene) for gene in (a, b)]
    return [(one, other, level) for level, (one, other) in enumerate(zip(*ends, strict=False), start=1)]


def _level_ends(gene: Learngene) -> list[str]:
    """The last group of every level of resolution."""
    layout = gene_layout(gene.arch, gene.genotype.sizes)
    levels = FAMILIES[gene.arch].backbone.levels
    return [layout.owner(f"{level[-1].units[-1].conv}.weight") for level in levels]


def _places(a: Learngene, b: Learngene, group: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Where the shared channels lie among a's and among b's; None: there are none."""
    one, other = a.genotype[group], b.genotype[group]
    if one.overlap(other) == 0:
        return None
    first, second = (torch.from_numpy(x.bits[y.kept]).nonzero().flatten() for x, y in ((other, one), (one, other)))
    return first, second
