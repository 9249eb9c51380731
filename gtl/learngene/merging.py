"""Merge two learngenes of one network into one: the channels of both, or those that both have. Always whole circuits."""

from __future__ import annotations

from functools import partial
from typing import Any

from gtl.config import CriticSection
from gtl.critic import Gene, criticise, draw_tasks
from gtl.data.images import ImageSet
from gtl.errors import ConfigError, DataError, GeneMismatchError, LearngeneError
from gtl.genotype import Genotype
from gtl.learngene.artifact import Learngene
from gtl.learngene.container import canonical_json
from gtl.learngene.derived import DIFFERENT, HERE, SAME, ancestry, derived, fitted, why_apart
from gtl.learngene.evidence import config_of
from gtl.learngene.gene_images import check_images
from gtl.learngene.records import look_up
from gtl.models import ArchSpec, gene_layout
from gtl.seeds import derive
from gtl.surgery import GeneTensors, average, scatter
from gtl.training import Compute

HOW = ("union", "intersection", "better")
COMBINED_NORMS = (
    "the norms' statistics are combined from the parents', not measured on this circuit; images (--images) would let them "
    "be estimated"
)


def merge(
    one: Learngene,
    other: Learngene,
    how: str = "union",
    *,
    images: ImageSet | None = None,
    validation: ImageSet | None = None,
    compute: Compute = HERE,
    seed: int = 0,
) -> Learngene:
    """One learngene of two of the same network. Which of them is named first makes no difference.

    ``union`` keeps the channels of both, ``intersection`` those that both have. A connection that both parents have is
    their mean; in a union, one that a single parent has is that parent's, and one that none has is zero, so that what only
    one has does not reach into what only the other has. ``better`` keeps the channels of both, too, but the fitter parent's
    circuit whole: in it, it computes what it computes alone, and reads nothing else; what only the other has is added.

    Without images a gene merged with itself is itself, whatever `how`.

    Args:
        one, other: genes of one architecture whose ancestors had the same widths. Channels are told by their index, so
            their weights mean something together only if it was the same ancestor; if not, the result says so.
        how: one of HOW.
        images: of train classes, to estimate the norms' statistics on; None: those of shared channels are averaged.
        validation: images of validation classes, on which ``better`` measures both parents with the critic; None: it goes
            by the fitness that they carry, if that was measured alike.
        compute: where to compute.
        seed: draws images and critic tasks.

    Returns:
        A gene without evidence. ``provenance["parents"]`` has both digests, ``provenance["derived"]["notes"]`` what to
        mind.

    Raises:
        ConfigError: no such `how`, or the fitness that they carry does not compare.
        GeneMismatchError: other architectures or widths, or an intersection that leaves a group empty; names it.
        DataError: images of the wrong role, or too few.
    """
    if how not in HOW:
        raise ConfigError(f"unknown merge {how!r}; known are {', '.join(HOW)}")
    apart = why_apart(one, other)
    if apart:
        raise GeneMismatchError(f"{apart}. What they compute can be compared: gtl diff A B --images SOURCE")
    if images is not None:
        check_images((one, other), images, "the estimation of norms")
    first, second = sorted((one, other), key=lambda gene: (gene.digest, canonical_json(gene.provenance)))
    kept = _kept(first, second, how)
    layout_of = partial(gene_layout, one.arch)
    about: dict[str, Any] = {"how": how}
    if how == "better":
        fitness, measured = _fitness(first, second, validation, compute, seed)
        better, rest = (second, first) if fitness[1] > fitness[0] else (first, second)
        about |= {"better": better.digest, "fitness": dict(zip((first.digest, second.digest), fitness, strict=True))}
        about["measured"] = measured
        tensors: GeneTensors = average([(rest.genotype, rest.tensors)], kept, layout_of)
        tensors = scatter(better.tensors, better.genotype.within(kept), tensors, layout_of(kept.counts))
    else:
        tensors = average([(gene.genotype, gene.tensors) for gene in (first, second)], kept, layout_of)
    tensors, norms = fitted(one.arch, kept, tensors, images, compute, seed)
    notes = _ancestor_notes(first, second) + ([] if norms else [COMBINED_NORMS])
    return derived(
        f"{how} of two learngenes" if how != "better" else "the better of two learngenes, and what the other adds",
        (first, second),
        kept,
        tensors,
        {**about, "norms": norms or "combined"},
        notes,
        compute,
        seed,
    )


def _kept(first: Learngene, second: Learngene, how: str) -> Genotype:
    if how != "intersection":
        return first.genotype.union(second.genotype)
    try:
        return first.genotype.intersection(second.genotype)
    except ValueError:
        empty = [group for group, mask in first.genotype.items() if mask.overlap(second.genotype[group]) == 0]
        raise GeneMismatchError(
            f"the two learngenes share no channel of {', '.join(empty)}, so their intersection is no whole circuit. Take "
            "their union (--how union) and shrink it: gtl shrink"
        ) from None


def _ancestor_notes(first: Learngene, second: Learngene) -> list[str]:
    found = ancestry(first, second)
    if found == SAME:
        return []
    which = "come from different ancestors" if found == DIFFERENT else "do not say that they come from one ancestor"
    return [
        f"the parents {which}: channel 3 of one need not be channel 3 of the other, and their weights were put together by "
        "number, which then means nothing"
    ]


def _fitness(
    first: Learngene, second: Learngene, validation: ImageSet | None, compute: Compute, seed: int
) -> tuple[tuple[float, float], bool]:
    """Accuracies of the critic on validation classes, and whether they were measured here."""
    if validation is None:
        return _recorded(first, second), False
    check_images((first, second), validation, "the choice of the better gene")
    if validation.role != "val":
        raise DataError(
            f"the better gene is chosen on validation classes, these are the {validation.role} classes of "
            f"{validation.source}, which a gene may have trained on; give the val classes"
        )
    section = _critic_of(first, second) or CriticSection()
    drawn = derive(seed, "better gene")
    tasks = draw_tasks(validation, section, drawn, section.final_tasks)
    found = []
    for gene in (first, second):
        host = ArchSpec(gene.arch, tuple(gene.genotype.sizes.items()), 1)
        scores = criticise(Gene(host, gene.genotype, gene.tensors), tasks, section, drawn, compute)
        found.append(sum(scores) / len(scores))
    return (found[0], found[1]), True


def _recorded(first: Learngene, second: Learngene) -> tuple[float, float]:
    """The fitness that both carry, if the same critic found it on the same classes.

    Raises:
        ConfigError: it did not.
    """
    found = [look_up(gene.provenance, "winner", "fitness") for gene in (first, second)]
    classes = [look_up(gene.provenance, "data", "classes") for gene in (first, second)]
    known = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    if not known or classes[0] is None or classes[0] != classes[1] or _critic_of(first, second) is None:
        raise ConfigError(
            "which of the two is better is not recorded alike: they carry no fitness, or one of another critic or of other "
            "classes. Give images of validation classes to measure both: --images SOURCE"
        )
    return float(found[0]), float(found[1])


def _critic_of(first: Learngene, second: Learngene) -> CriticSection | None:
    """The critic that both were evolved with; None if there is none or they had different ones."""
    try:
        sections = [config_of(gene).critic for gene in (first, second)]
    except LearngeneError:
        return None
    return sections[0] if sections[0] == sections[1] else None
