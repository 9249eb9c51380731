"""The networks that gtl knows, by registry name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from gtl.errors import ConfigError
from gtl.layout import ChannelLayout
from gtl.models import resnet, vgg
from gtl.models.backbone import Backbone, Block, Unit, backbone_of, register
from gtl.models.base import MAX_WIDTH, ArchSpec, ConvNet
from gtl.models.resnet import ResNet12
from gtl.models.vgg import VGG11

__all__ = [
    "FAMILIES",
    "VGG11",
    "ArchSpec",
    "Backbone",
    "Block",
    "ConvNet",
    "Family",
    "ResNet12",
    "Unit",
    "backbone_of",
    "build",
    "gene_layout",
    "register",
    "resnet12",
    "spec_of",
    "vgg11",
]


@dataclass(frozen=True)
class Family:
    """One registered architecture: how to build it, its layout, width families at multiplier 1, and its backbone."""

    network: Callable[[ArchSpec], ConvNet]
    layout: Callable[[Mapping[str, int], int], ChannelLayout]
    base_widths: Mapping[str, Mapping[str, int]]
    backbone: Backbone


FAMILIES: dict[str, Family] = {
    "vgg11": Family(VGG11, vgg.vgg11_layout, {"64-128-256-512": vgg.WIDTHS}, vgg.BACKBONE),
    "resnet12": Family(
        ResNet12,
        resnet.resnet12_layout,
        {name: resnet.stage_widths(name) for name in resnet.FAMILIES},
        resnet.BACKBONE,
    ),
}
register(VGG11, lambda network: vgg.BACKBONE)
register(ResNet12, lambda network: resnet.BACKBONE)


def spec_of(arch: str, *, num_classes: int, width: float = 1.0, family: str = "64-128-256-512") -> ArchSpec:
    """Spec of a registered architecture at a width multiplier; every group has at least one channel.

    Raises:
        ConfigError: unknown architecture or width family, or a multiplier that is not positive.
    """
    if arch not in FAMILIES:
        raise ConfigError(f"unknown architecture {arch!r}; known are {', '.join(FAMILIES)}")
    families = FAMILIES[arch].base_widths
    if family not in families:
        raise ConfigError(f"{arch} has no width family {family!r}; it has {', '.join(families)}")
    if not 0 < width <= 16:
        raise ConfigError(f"width multiplier {width} is outside (0, 16]")
    if not 1 <= num_classes <= MAX_WIDTH:
        raise ConfigError(f"num_classes {num_classes} is outside 1..{MAX_WIDTH}")
    widths = tuple((group, max(1, round(base * width))) for group, base in families[family].items())
    return ArchSpec(arch, widths, num_classes)


def build(spec: ArchSpec, seed: int = 0) -> ConvNet:
    """A freshly initialised network; the same spec and seed give the same weights.

    Raises:
        ConfigError: the architecture is not registered, or the groups are not its groups.
    """
    if spec.arch not in FAMILIES:
        raise ConfigError(f"unknown architecture {spec.arch!r}; known are {', '.join(FAMILIES)}")
    family = FAMILIES[spec.arch]
    expected = next(iter(family.base_widths.values()))
    if [group for group, _ in spec.widths] != list(expected):
        raise ConfigError(f"{spec.arch} has the groups {list(expected)}, not {[group for group, _ in spec.widths]}")
    with torch.random.fork_rng(devices=[]):  # torch's own constructors draw from the global generator
        network = family.network(spec)
    network.layout.validate({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    network.initialise(torch.Generator().manual_seed(seed))
    return network


def gene_layout(arch: str, widths: Mapping[str, int]) -> ChannelLayout:
    """Layout of an architecture at these widths, for genes (one output: the head is never inherited).

    Raises:
        KeyError: unknown architecture, or other groups than it has.
    """
    family = FAMILIES[arch]
    expected = next(iter(family.base_widths.values()))
    if list(widths) != list(expected):
        raise KeyError(f"{arch} has the groups {list(expected)}, not {list(widths)}")
    return family.layout(widths, 1)


def vgg11(num_classes: int, width: float = 1.0, *, seed: int = 0) -> ConvNet:
    """VGG11 with widths 64-128-256-256-512-512-512-512 times `width`."""
    return build(spec_of("vgg11", num_classes=num_classes, width=width), seed)


def resnet12(num_classes: int, width: float = 1.0, *, family: str = "64-128-256-512", seed: int = 0) -> ConvNet:
    """ResNet12 with the widths of `family` ("64-128-256-512" or "64-160-320-640") times `width`."""
    return build(spec_of("resnet12", num_classes=num_classes, width=width, family=family), seed)
