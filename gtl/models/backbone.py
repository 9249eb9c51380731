"""Backbone: a network as a chain of convolutions and norms, level by level of resolution.

It is what inheritance across shapes goes by: a gene's circuit is followed through a descendant's chain. Declared, not
traced: whoever brings a network of their own says how it is built (`register`, docs/inheritance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from gtl.errors import ConfigError


@dataclass(frozen=True)
class Unit:
    """A convolution and the batch norm behind it, by their names in the network.

    Attributes:
        conv, norm: module names of a Conv2d (one group of channels) and of a BatchNorm2d.
        name: what reports call it; the convolution's name if empty.
    """

    conv: str
    norm: str
    name: str = ""

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.name or self.conv


@dataclass(frozen=True)
class Block:
    """Units one after the other, each followed by a rectifier.

    Attributes:
        units: at least one.
        residual: whether what enters is added to what the last unit gives, before its rectifier.
        shortcut: projects what enters before it is added; None: added as it is.
    """

    units: tuple[Unit, ...]
    residual: bool = False
    shortcut: Unit | None = None

    def __post_init__(self) -> None:
        if not self.units:
            raise ConfigError("a block needs at least one unit")
        if self.shortcut is not None and not self.residual:
            raise ConfigError(f"the block of {self.units[0].label} has a shortcut, so it must be residual=True")


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier.

    Attributes:
        levels: blocks in forward order; a new level begins where the resolution falls.
        slope: of the rectifier for negative values; 0 for ReLU.
    """

    levels: tuple[tuple[Block, ...], ...]
    slope: float = 0.0

    @property
    def blocks(self) -> Iterator[tuple[int, Block]]:
        """``(level, block)`` in forward order."""
        return ((number, block) for number, level in enumerate(self.levels) for block in level)

    def check(self, network: nn.Module) -> None:
        """Compare the declaration with a network.

        Raises:
            ConfigError: a name that the network does not have, another kind of module, or channels that do not meet.
        """
        width, modules = 3, dict(network.named_modules())
        for _, block in self.blocks:
            entering = width
            for unit in block.units:
                width = _width(modules, unit, width)
            if block.shortcut is not None and _width(modules, block.shortcut, entering) != width:
                raise ConfigError(
                    f"{block.shortcut.conv} gives other channels than {block.units[-1].conv}, which it joins"
                )
            if block.residual and block.shortcut is None and entering != width:
                raise ConfigError(
                    f"the block of {block.units[0].label} adds {entering} channels to {width}; declare its shortcut"
                )


Declare = Callable[[Any], Backbone]
_DECLARED: dict[type[nn.Module], Declare] = {}


def register(kind: type[nn.Module], declare: Declare) -> None:
    """Make gtl know a class of networks: `declare` takes one of them and says its backbone.

    >>> register(MyNet, lambda network: Backbone(levels=...))  # doctest: +SKIP
    """
    _DECLARED[kind] = declare


def backbone_of(network: nn.Module) -> Backbone:
    """The declared and checked backbone of a network.

    Raises:
        ConfigError: its class is not registered, or the declaration does not fit the network.
    """
    if type(network).__module__.startswith("torchvision."):
        import gtl.models.adapters  # noqa: F401 - registers them
    for kind in type(network).__mro__:
        if kind in _DECLARED:
            backbone = _DECLARED[kind](network)
            backbone.check(network)
            return backbone
    raise ConfigError(
        f"gtl does not know how {type(network).__name__} is built; declare it with gtl.models.register "
        "(docs/inheritance.md has an example), or pass its backbone"
    )


def _width(modules: Mapping[str, nn.Module], unit: Unit, inputs: int) -> int:
    """Channels that a unit gives.

    Raises:
        ConfigError: it is not what it was declared to be.
    """
    conv, norm = modules.get(unit.conv), modules.get(unit.norm)
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
        raise ConfigError(
            f"{unit.conv} is {_kind(conv)}; a unit's conv must name a Conv2d whose channels are one group"
        )
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine:
        raise ConfigError(f"{unit.norm} is {_kind(norm)}; a unit's norm must name a BatchNorm2d with scale and shift")
    if conv.in_channels != inputs:
        raise ConfigError(
            f"{unit.conv} reads {conv.in_channels} channels, but {inputs} come before it in the declaration"
        )
    if norm.num_features != conv.out_channels:
        raise ConfigError(f"{unit.norm} has {norm.num_features} channels, {unit.conv} gives {conv.out_channels}")
    return conv.out_channels


def _kind(module: nn.Module | None) -> str:
    return "not there" if module is None else f"a {type(module).__name__}"
