"""Inheritance: a learngene becomes the initial weights of a descendant, with a report of exactly what went where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gtl.errors import GeneMismatchError
from gtl.learngene.artifact import Learngene
from gtl.models import ConvNet
from gtl.surgery import gene_region, scatter


@dataclass(frozen=True)
class GroupReport:
    """What one channel group of the descendant received, in parameters of the tensors that it owns."""

    group: str
    channels: int
    kept: int
    inherited: int
    zero_filled: int
    fresh: int


@dataclass(frozen=True)
class InheritReport:
    """What a descendant received.

    Attributes:
        arch: the descendant's architecture.
        groups: one entry per channel group; the head is always fresh.
        head: parameters of the head.
    """

    arch: str
    groups: tuple[GroupReport, ...]
    head: int

    @property
    def inherited(self) -> int:
        """Parameters that hold the gene's weights."""
        return sum(group.inherited for group in self.groups)

    @property
    def zero_filled(self) -> int:
        """Parameters set to zero, so that the gene's channels read only the gene at birth."""
        return sum(group.zero_filled for group in self.groups)

    @property
    def fresh(self) -> int:
        """Parameters left as they were, the head's included."""
        return sum(group.fresh for group in self.groups) + self.head

    @property
    def share(self) -> float:
        """Inherited over all parameters, in 0..1."""
        return self.inherited / (self.inherited + self.zero_filled + self.fresh)

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "arch": self.arch,
            "groups": [vars(group) for group in self.groups],
            "head": self.head,
            "inherited": self.inherited,
            "zero_filled": self.zero_filled,
            "fresh": self.fresh,
            "share": self.share,
        }


def inherit(network: ConvNet, learngene: Learngene) -> InheritReport:
    """Insert a learngene into a network of the same family that is as wide or wider. Changes `network` in place.

    The circuit goes to its channel indices, connections from other channels into it are zero, everything else
    (the head too) stays as the network had it. At birth the gene computes exactly what it computes alone.

    Raises:
        GeneMismatchError: another family, or a group of the network is too narrow; names the group.
    """
    if not isinstance(network, ConvNet):
        raise GeneMismatchError(
            f"gtl.inherit takes the networks of gtl.models, not {type(network).__name__}; build one with "
            f"gtl.models.{learngene.arch}(num_classes=...)"
        )
    if network.spec.arch != learngene.arch:
        raise GeneMismatchError(
            f"the learngene was evolved in {learngene.arch}, the network is {network.spec.arch}. "
            f"Build it with gtl.models.{learngene.arch}(num_classes=...)."
        )
    layout = network.layout
    state = network.state_dict()
    device = network.head.weight.device
    network.load_state_dict(scatter(learngene.tensors, learngene.genotype, state, layout))
    network.to(device)
    parameters = {name for name, _ in network.named_parameters()}
    placed = learngene.genotype.widened(layout.groups)
    reports = []
    for group, mask in learngene.genotype.items():
        owned = [name for name in layout.inherited if layout.owner(name) == group and name in parameters]
        regions = [gene_region(layout, placed, name) for name in owned]
        inherited = sum(int(gene.sum()) for gene, _ in regions)
        zeros = sum(int(zero.sum()) for _, zero in regions)
        total = sum(math.prod(layout.shapes[name]) for name in owned)
        reports.append(GroupReport(group, layout.groups[group], len(mask), inherited, zeros, total - inherited - zeros))
    head = sum(math.prod(layout.shapes[name]) for name in layout.head)
    return InheritReport(learngene.arch, tuple(reports), head)
