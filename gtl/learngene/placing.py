"""Placing: a gene's circuit is followed through a descendant's chain, unit by unit, so that it stays one circuit.

A unit of the descendant either takes the next unit of the gene, or carries the circuit's channels on unchanged (a Dirac
kernel, and a norm that gives back what it is given). Where a level of the descendant has fewer units than the gene's, the
gene's go on in the next level; what finds no unit at the end is left out, and said. Every parameter has a role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import nn

from gtl.errors import GeneMismatchError
from gtl.learngene.artifact import Learngene
from gtl.models import FAMILIES, gene_layout
from gtl.models.backbone import Backbone, Block, Unit

NORM = ("weight", "bias", "running_mean", "running_var")
EPS = 1e-5  # of batch norms
_NONE = torch.arange(0)


class Role(IntEnum):
    """Where a parameter of a descendant comes from."""

    FRESH = 0
    INHERITED = 1
    ZERO_FILLED = 2  # so that the circuit's channels hear nothing but the circuit
    IDENTITY = 3  # carries the circuit on


@dataclass(frozen=True)
class Signal:
    """The circuit between two units of the descendant.

    Attributes:
        channels: int64 ``(n,)``, where it lies in the descendant.
        kept: int64 ``(n,)``, which channels of the gene's last unit these are: positions along the gene's axis.
        mean, variance: float64 ``(n,)``, after the rectifier, as the gene's norms say.
    """

    channels: torch.Tensor
    kept: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


@dataclass(frozen=True)
class Link:
    """A unit of the gene: where it stands in the chain that it was evolved in, and its tensors.

    Attributes:
        unit: its names in the gene.
        level: of resolution.
        block: number of its block, and that block.
        ids: int64, the channels of its ancestor's that it keeps.
    """

    unit: Unit
    level: int
    number: int
    block: Block
    ids: torch.Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """A unit of the descendant.

    Attributes:
        channels: how many it has.
        rows: int64, those that the circuit has; none where the circuit goes around it.
        of: the gene's unit that it took; empty if it took none.
    """

    unit: Unit
    channels: int
    rows: torch.Tensor
    of: str


def links(learngene: Learngene) -> list[Link]:
    """The gene's units in forward order."""
    layout = gene_layout(learngene.arch, learngene.genotype.sizes)
    found = []
    for number, (level, block) in enumerate(FAMILIES[learngene.arch].backbone.blocks):
        for unit in block.units:
            ids = torch.from_numpy(learngene.genotype[layout.owner(f"{unit.conv}.weight")].kept)
            found.append(Link(unit, level, number, block, ids))
    return found


class Placement:
    """A descendant's state dict while a gene is placed in it.

    Attributes:
        state: all its tensors, on the CPU.
        roles: of its parameters, uint8 of their shapes, see `Role`.
        places: every unit of the backbone.
        notes: sentences about what could not be placed as it is.
    """

    def __init__(self, network: nn.Module, backbone: Backbone, learngene: Learngene) -> None:
        self.state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        self.roles = {n: torch.zeros(p.shape, dtype=torch.uint8) for n, p in network.named_parameters()}
        self.places: list[Place] = []
        self.notes: list[str] = []
        self._gene: Mapping[str, torch.Tensor] = learngene.tensors
        self._slope = FAMILIES[learngene.arch].backbone.slope
        self._waiting = links(learngene)
        self._last_level = len(backbone.levels) - 1
        signal = Signal(torch.arange(3), torch.arange(3), torch.zeros(3), torch.ones(3))
        for level, block in backbone.blocks:
            signal = self._through(block, level, signal)
        if self._waiting:
            names = ", ".join(link.unit.label for link in self._waiting)
            self.notes.append(f"the gene's {names} found no place: the descendant has too few units for them")

    def _through(self, block: Block, level: int, signal: Signal) -> Signal:
        """Take the circuit through a block."""
        if block.residual and block.shortcut is None:
            return self._around(block, signal)
        entering, taken = signal, list[Link]()
        for unit in block.units:
            link = self._next(unit, level)
            if link is None:
                signal = self._carry(unit, signal)
            else:
                taken.append(link)
                signal = self._put(link, unit, signal)
        if block.shortcut is not None:
            signal = self._join(block.shortcut, taken, entering, signal)
        elif taken and taken[-1].block.shortcut is not None and taken[-1].unit is taken[-1].block.units[-1]:
            self.notes.append(f"{taken[-1].unit.label} is placed without its shortcut: the descendant has none there")
        return signal

    def _next(self, unit: Unit, level: int) -> Link | None:
        """The link that this unit takes: the next one, if its level has come and its kernel fits."""
        if not self._waiting:
            return None
        link = self._waiting[0]
        size = self.state[f"{unit.conv}.weight"].shape[-1]
        if (link.level > level and level < self._last_level) or self._gene[f"{link.unit.conv}.weight"].shape[-1] > size:
            return None
        return self._waiting.pop(0)

    def _put(self, link: Link, unit: Unit, signal: Signal) -> Signal:
        """Write a unit of the gene; its rows read nothing but the circuit."""
        width = len(self.state[f"{unit.norm}.weight"])
        kept = torch.arange(len(link.ids))
        if len(kept) > width:
            kept = self._worth(link).topk(width).indices.sort().values
            self.notes.append(
                f"{unit.label} has room for {width} of {len(link.ids)} channels: the least important are left out"
            )
        ids = link.ids[kept]
        rows = ids if int(ids[-1]) < width else torch.arange(len(ids))
        norm = {kind: self._gene[f"{link.unit.norm}.{kind}"][kept] for kind in NORM}
        self._write_kernel(unit, rows, signal.channels, self._kernel(link.unit, kept, signal.kept), Role.INHERITED)
        self._write_norm(unit, rows, norm, Role.INHERITED)
        self.places.append(Place(unit, width, rows, link.unit.label))
        return self._rectified(rows, kept, norm["bias"].double(), norm["weight"].double() ** 2)

    def _carry(self, unit: Unit, signal: Signal) -> Signal:
        """Let the circuit's channels pass as they are."""
        if len(self._waiting) and not self.places:
            raise GeneMismatchError(
                f"{unit.label}, the first convolution of the descendant, cannot hold {self._waiting[0].unit.label} of the "
                "gene: its kernel is smaller. Use a network whose first kernel has at least 3 x 3 pixels."
            )
        width = len(self.state[f"{unit.norm}.weight"])
        if len(signal.channels) > width:
            chosen = signal.variance.topk(width).indices.sort().values
            self.notes.append(f"{unit.label} has room for {width} of the circuit's {len(signal.channels)} channels")
            signal = Signal(*(part[chosen] for part in (signal.channels, signal.kept, signal.mean, signal.variance)))
        fits = int(signal.channels.max()) < width
        rows = signal.channels if fits else torch.arange(len(signal.channels))
        kernel = torch.eye(len(rows))[:, :, None, None]
        scale = (signal.variance + EPS).sqrt()
        norm = {"weight": scale, "bias": signal.mean, "running_mean": signal.mean, "running_var": signal.variance}
        self._write_kernel(unit, rows, signal.channels, kernel, Role.IDENTITY)
        self._write_norm(unit, rows, norm, Role.IDENTITY)
        self.places.append(Place(unit, width, rows, ""))
        return replace(signal, channels=rows)

    def _around(self, block: Block, signal: Signal) -> Signal:
        """Past a block that adds what enters as it is: silent in the circuit's channels, it changes nothing there."""
        for unit in block.units:
            width = len(self.state[f"{unit.norm}.weight"])
            self.places.append(Place(unit, width, signal.channels if unit is block.units[-1] else _NONE, ""))
        self._silence(block.units[-1], signal.channels)
        return signal

    def _join(self, shortcut: Unit, taken: list[Link], entering: Signal, signal: Signal) -> Signal:
        """What is added to the circuit's channels: the gene's own shortcut, if all of its block is here; else nothing."""
        whole = taken and [link.unit for link in taken] == list(taken[0].block.units) and taken[0].block.shortcut
        if not whole:
            self._silence(shortcut, signal.channels)
            if taken and taken[-1].block.shortcut is not None:
                self.notes.append(
                    f"{taken[-1].unit.label} is placed without its shortcut: its block is not whole there"
                )
            return signal
        own = taken[0].block.shortcut
        assert own is not None
        norm = {kind: self._gene[f"{own.norm}.{kind}"][signal.kept] for kind in NORM}
        kernel = self._kernel(own, signal.kept, entering.kept)
        self._write_kernel(shortcut, signal.channels, entering.channels, kernel, Role.INHERITED)
        self._write_norm(shortcut, signal.channels, norm, Role.INHERITED)
        last = {kind: self._gene[f"{taken[-1].unit.norm}.{kind}"][signal.kept].double() for kind in ("weight", "bias")}
        mean, variance = last["bias"] + norm["bias"].double(), last["weight"] ** 2 + norm["weight"].double() ** 2
        return self._rectified(signal.channels, signal.kept, mean, variance)

    def _worth(self, link: Link) -> torch.Tensor:
        """Of each channel of a link: its norm's scale times what the next link makes of it."""
        worth = self._gene[f"{link.unit.norm}.weight"].double().abs()
        if self._waiting:
            reads = self._gene[f"{self._waiting[0].unit.conv}.weight"]
            worth = worth * reads.double().abs().sum(dim=(0, 2, 3))
        return worth

    def _kernel(self, unit: Unit, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return self._gene[f"{unit.conv}.weight"][rows][:, columns]

    def _rectified(self, rows: torch.Tensor, kept: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> Signal:
        """The signal behind a rectifier of what is normal with this mean and variance; all moments in closed form."""
        std = variance.sqrt().clamp_min(1e-12)
        z = mean / std
        below = torch.special.ndtr(z)
        density = torch.exp(-0.5 * z**2) / (2 * torch.pi) ** 0.5
        first = mean * below + std * density
        second = (mean**2 + std**2) * below + mean * std * density
        slope = self._slope
        first, second = (1 - slope) * first + slope * mean, (1 - slope**2) * second + slope**2 * (mean**2 + std**2)
        return Signal(rows, kept, first, (second - first**2).clamp_min(1e-12))

    def _write_kernel(
        self, unit: Unit, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, role: Role
    ) -> None:
        """Rows that read these columns only, with a kernel in the middle of the unit's."""
        weight, roles = self.state[f"{unit.conv}.weight"], self.roles[f"{unit.conv}.weight"]
        inner, outer = values.shape[-1], weight.shape[-1]
        at = (outer - inner) // 2
        window = slice(at, at + inner)
        for target, fill, content in ((weight, 0.0, values.to(weight)), (roles, Role.ZERO_FILLED, role)):
            target[rows] = fill
            target[rows[:, None], columns[None, :], window, window] = content
        if f"{unit.conv}.bias" in self.state:
            self.state[f"{unit.conv}.bias"][rows] = 0.0
            self.roles[f"{unit.conv}.bias"][rows] = Role.ZERO_FILLED

    def _write_norm(self, unit: Unit, rows: torch.Tensor, values: Mapping[str, torch.Tensor], role: Role) -> None:
        for kind, value in values.items():
            name = f"{unit.norm}.{kind}"
            self.state[name][rows] = value.to(self.state[name])
            if name in self.roles:
                self.roles[name][rows] = role

    def _silence(self, unit: Unit, rows: torch.Tensor) -> None:
        zeros = torch.zeros(len(rows))
        self._write_norm(unit, rows, {"weight": zeros, "bias": zeros}, Role.ZERO_FILLED)
