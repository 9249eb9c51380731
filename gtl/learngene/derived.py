"""What a learngene tells about itself that was made of other learngenes: its parents, how, and what it cannot know."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gtl.data.images import ImageSet
from gtl.genotype import Genotype
from gtl.learngene.artifact import Learngene
from gtl.learngene.container import canonical_json
from gtl.learngene.records import look_up, shares
from gtl.life import NORM_IMAGES, fit_norms
from gtl.models import gene_layout
from gtl.seeds import derive
from gtl.surgery import GeneTensors
from gtl.training import Compute
from gtl.versions import versions

HERE = Compute(torch.device("cpu"), None)
NO_EVIDENCE = "evidence does not carry over: nothing was measured on this gene yet (gtl fewshot measures it)"
SAME, DIFFERENT, UNKNOWN = "same", "different", "unknown"
_TRAINING = (("model",), ("data",), ("founders", "epochs"), ("founders", "training"), ("seed",))


def ancestor_of(gene: Learngene) -> str | None:
    """What tells the network that a gene was cut from among others, as far as its provenance says; None: it does not.

    A checkpoint is told by its sha256, a network that a run trained by what it was trained on, from which seed and how. A
    gene that was made of others has the ancestor that all of them have.
    """
    record = gene.provenance
    if "derived" in record:
        found = look_up(record, "derived", "ancestor")
        return found if isinstance(found, str) else None
    checkpoint = look_up(record, "checkpoint", "sha256")
    if isinstance(checkpoint, str):
        return checkpoint
    config = look_up(record, "config")
    parts = [look_up(config, *keys) for keys in _TRAINING] + [look_up(record, "data", "classes")]
    trained = look_up(config, "founders", "kind") == "ancestor" and look_up(config, "founders", "checkpoint") is None
    if not trained or None in parts:
        return None
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def ancestry(one: Learngene, other: Learngene) -> str:
    """Whether two genes were cut from the same ancestor: SAME, DIFFERENT, or UNKNOWN."""
    if one.digest == other.digest:
        return SAME
    found = ancestor_of(one), ancestor_of(other)
    if None in found:
        return UNKNOWN
    return SAME if found[0] == found[1] else DIFFERENT


def why_apart(one: Learngene, other: Learngene) -> str:
    """Why channel numbers do not mean the same in two genes: other architectures, or ancestors of other widths; else ""."""
    if one.arch != other.arch:
        return f"a learngene of {one.arch} and one of {other.arch} have no channels in common"
    sizes = one.genotype.sizes, other.genotype.sizes
    group = next((group for group, size in sizes[0].items() if size != sizes[1][group]), None)
    if group is None:
        return ""
    return (
        f"the ancestors had other widths (group {group}: {sizes[0][group]} and {sizes[1][group]} channels), so equal numbers "
        "are not the same channels"
    )


def fitted(
    arch: str, genotype: Genotype, tensors: GeneTensors, images: ImageSet | None, compute: Compute, seed: int
) -> tuple[GeneTensors, dict[str, Any]]:
    """The circuit with its norms estimated on it, and the record of that; without images as it is, and {}."""
    if images is None:
        return tensors, {}
    count = min(NORM_IMAGES, len(images.labels))
    record = {"source": images.source, "role": images.role, "images": count, "pixels": images.digest}
    return fit_norms(arch, tensors, genotype, images, compute, derive(seed, "norms of a derived gene")), record


def derived(
    method: str,
    parents: Sequence[Learngene],
    genotype: Genotype,
    tensors: Mapping[str, torch.Tensor],
    how: Mapping[str, Any],
    notes: Sequence[str],
    compute: Compute,
    seed: int,
) -> Learngene:
    """A learngene that was made of others: with their digests, without their evidence.

    What all parents have alike it keeps: the data that they were evolved on, and a configuration, by which it can be
    measured as they were. A cost is the sum of theirs, an ancestor that they share counted once.

    Args:
        method: in words.
        parents: in an order that does not depend on who was named first.
        how: JSON about what was done.
        notes: sentences that a user should read before using it.
    """
    first = parents[0].provenance
    record: dict[str, Any] = {
        "method": method,
        "derived": {**how, "ancestor": _common_ancestor(parents), "seed": seed, "notes": [*notes, NO_EVIDENCE]},
        "parents": [_in_short(parent) for parent in parents],
        "images": _images(parents),
        "versions": versions(compute),
    }
    if _alike(parents, ("data",)) and _alike(parents, ("config", "model")):
        record |= {key: first[key] for key in ("data", "config", "config_hash", "seed") if key in first}
    depths = [look_up(parent.provenance, "generations") for parent in parents]
    if all(type(depth) is int for depth in depths):
        record["generations"] = max(depths)
    layout = gene_layout(parents[0].arch, genotype.sizes)
    return Learngene(parents[0].arch, genotype, tensors, shares(layout, genotype), record)


def _common_ancestor(parents: Sequence[Learngene]) -> str | None:
    same = all(ancestry(parents[0], parent) == SAME for parent in parents)
    return ancestor_of(parents[0]) if same else None


def _alike(parents: Sequence[Learngene], keys: Sequence[str]) -> bool:
    found = [look_up(parent.provenance, *keys) for parent in parents]
    return found[0] is not None and all(value == found[0] for value in found)


def _in_short(gene: Learngene) -> dict[str, Any]:
    """A parent's identity, and what its own provenance says first; the whole of it would grow with every generation."""
    record = gene.provenance
    ancestors = look_up(record, "parents")
    digests = [look_up(each, "digest") for each in ancestors] if isinstance(ancestors, list) else []
    short = {key: record[key] for key in ("method", "config_hash", "seed", "images") if key in record}
    return {
        "digest": gene.digest,
        **short,
        "classes": look_up(record, "data", "classes"),
        "counts": list(gene.genotype.counts.values()),
        "parents": [digest for digest in digests if isinstance(digest, str)],
    }


def _images(parents: Sequence[Learngene]) -> dict[str, int | None]:
    """Training images behind all parents; what one of them cost and nobody knows makes the sum unknown."""
    known = {}
    for part in ("ancestor", "lives"):
        found = [look_up(parent.provenance, "images", part) for parent in {p.digest: p for p in parents}.values()]
        if part == "ancestor" and _common_ancestor(parents) is not None:
            found = found[:1]
        known[part] = sum(found) if all(type(count) is int for count in found) else None
    ancestor, lives = known["ancestor"], known["lives"]
    return {**known, "total": None if ancestor is None or lives is None else ancestor + lives}
