"""Inheritance: a learngene becomes the initial weights of a descendant, with a report of exactly what went where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gtl.errors import ConfigError
from gtl.learngene.artifact import Learngene
from gtl.learngene.placing import Placement, Role
from gtl.models import Backbone, backbone_of


@dataclass(frozen=True)
class GroupReport:
    """What one unit of the descendant received (a convolution and its norm, with the shortcut that joins it), in parameters.

    Attributes:
        group: its name.
        channels: that it has.
        kept: that the circuit has in it.
        of: the gene's unit that it took; empty if it carries the circuit on, or has nothing of it.
        inherited, zero_filled, identity, fresh: parameters of each kind.
    """

    group: str
    channels: int
    kept: int
    of: str
    inherited: int
    zero_filled: int
    identity: int
    fresh: int


@dataclass(frozen=True)
class InheritReport:
    """What a descendant received.

    Attributes:
        arch: the descendant's architecture, or its class.
        groups: one entry per unit; what is in none, the head for one, is always fresh.
        head: parameters outside all units.
        notes: sentences about what of the gene could not be placed as it is.
    """

    arch: str
    groups: tuple[GroupReport, ...]
    head: int
    notes: tuple[str, ...] = ()

    @property
    def inherited(self) -> int:
        """Parameters that hold the gene's weights."""
        return sum(group.inherited for group in self.groups)

    @property
    def zero_filled(self) -> int:
        """Parameters set to zero, so that the gene's channels read only the gene at birth."""
        return sum(group.zero_filled for group in self.groups)

    @property
    def identity(self) -> int:
        """Parameters that carry the gene's channels through units that the gene does not have."""
        return sum(group.identity for group in self.groups)

    @property
    def fresh(self) -> int:
        """Parameters left as they were, the head's included."""
        return sum(group.fresh for group in self.groups) + self.head

    @property
    def share(self) -> float:
        """Inherited over all parameters, in 0..1."""
        return self.inherited / (self.inherited + self.zero_filled + self.identity + self.fresh)

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "arch": self.arch,
            "groups": [vars(group) for group in self.groups],
            "head": self.head,
            "inherited": self.inherited,
            "zero_filled": self.zero_filled,
            "identity": self.identity,
            "fresh": self.fresh,
            "share": self.share,
            "notes": list(self.notes),
        }


def inherit(network: nn.Module, learngene: Learngene, backbone: Backbone | None = None) -> InheritReport:
    """Insert a learngene into a network of any width, depth or family. Changes `network` in place.

    Where the network has the gene's units, as wide or wider, the circuit goes to its own channel indices, and at birth
    computes exactly what it computes alone: connections from other channels into it are zero. Units that the gene does
    not have carry it on unchanged; a narrower unit takes the most important channels; what finds no unit is left out
    and noted. Everything else, the classifier too, stays as the network had it. The rules: docs/inheritance.md.

    Args:
        network: one of gtl.models, a torchvision VGG with batch norm or ResNet, or any that is registered.
        backbone: how the network is built; None: as it was registered.

    Raises:
        ConfigError: it is not known how the network is built, or it is declared wrongly.
        GeneMismatchError: not even the gene's first unit fits; names it.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError(f"gtl.inherit takes a torch.nn.Module, not a {type(network).__name__}")
    if backbone is None:
        backbone = backbone_of(network)
    else:
        backbone.check(network)
    placement = Placement(network, backbone, learngene)
    devices = {name: tensor.device for name, tensor in network.state_dict().items()}
    network.load_state_dict({name: tensor.to(devices[name]) for name, tensor in placement.state.items()})
    places = iter(placement.places)
    groups, counted = [], set[str]()
    for _, block in backbone.blocks:
        for unit in block.units:
            modules = [unit.conv, unit.norm]
            if unit is block.units[-1] and block.shortcut is not None:
                modules += [block.shortcut.conv, block.shortcut.norm]
            names = [name for name in placement.roles if name.rpartition(".")[0] in modules]
            place, roles = next(places), torch.zeros(len(Role), dtype=torch.int64)
            for name in names:
                roles += torch.bincount(placement.roles[name].flatten(), minlength=len(Role))
            counted.update(names)
            kinds = {kind.name.lower(): int(roles[kind]) for kind in Role}
            groups.append(GroupReport(unit.label, place.channels, len(place.rows), place.of, **kinds))
    rest = sum(roles.numel() for name, roles in placement.roles.items() if name not in counted)
    arch = getattr(getattr(network, "spec", None), "arch", type(network).__name__)
    return InheritReport(arch, tuple(groups), rest, tuple(placement.notes))
