"""The shapes of `benchmarks/shapes.py`: gtl's and torchvision's networks for small images, and descendants born from them.

torchvision's classifiers (4096 wide, with dropout) and its stems for 224 pixels do not suit images of 32: the VGGs here are
its convolutions with a global average and a linear head, the ResNets have the usual 3 x 3 stem without pooling. Both are
narrowed by a factor, so that two cores can train them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import cfgs, make_layers

import gtl.learngene
from gtl.learngene.artifact import Learngene
from gtl.learngene.inherit import InheritReport, inherit
from gtl.models import register, resnet12, vgg11
from gtl.models.adapters import resnet_backbone, vgg_backbone

POOL = "M"
# Fewer convolutions than any of torchvision's: one a level, and one before every second pooling.
SHALLOW: Mapping[str, tuple[int | str, ...]] = {
    "vgg6": (64, POOL, 128, POOL, 256, POOL, 512, POOL, 512),
    "vgg4": (64, POOL, POOL, 128, POOL, 256, POOL, 512),
}
DEEP = {"vgg11_bn": "A", "vgg13_bn": "B", "vgg16_bn": "D", "vgg19_bn": "E"}
BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
RESNET_WIDTHS = (64, 128, 256, 512)


class SmallVGG(nn.Module):
    """torchvision's VGG layers with batch norm; a global average takes the place of the last pooling."""

    def __init__(self, layers: tuple[int | str, ...], width: float, num_classes: int) -> None:
        super().__init__()
        while layers[-1] == POOL:
            layers = layers[:-1]
        narrowed = [layer if isinstance(layer, str) else round(layer * width) for layer in layers]
        self.features = make_layers(narrowed, batch_norm=True)
        self.classifier = nn.Linear(narrowed[-1], num_classes)
        for module in self.modules():  # as torchvision's VGG does
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` -> ``(B, num_classes)``."""
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


register(SmallVGG, vgg_backbone)


class SmallResNet(nn.Module):
    """torchvision's basic blocks in four narrow stages behind a 3 x 3 stem without pooling."""

    def __init__(self, blocks: tuple[int, ...], width: float, num_classes: int) -> None:
        super().__init__()
        channels = round(RESNET_WIDTHS[0] * width)
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.Identity()
        for number, (base, count) in enumerate(zip(RESNET_WIDTHS, blocks, strict=True), start=1):
            planes, stride = round(base * width), 1 if number == 1 else 2
            project = None
            if number > 1:
                project = nn.Sequential(nn.Conv2d(channels, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
            rest = (BasicBlock(planes, planes) for _ in range(count - 1))
            self.add_module(f"layer{number}", nn.Sequential(BasicBlock(channels, planes, stride, project), *rest))
            channels = planes
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():  # as torchvision's ResNet does
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` -> ``(B, num_classes)``."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


register(SmallResNet, resnet_backbone)


def build_network(name: str, width: float, num_classes: int, seed: int) -> nn.Module:
    """A fresh network; the same arguments give the same weights."""
    if name in OWN:
        return OWN[name](num_classes, width, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in BLOCKS:
            return SmallResNet(BLOCKS[name], width, num_classes)
        layers = SHALLOW[name] if name in SHALLOW else tuple(cfgs[DEEP[name]])
        return SmallVGG(layers, width, num_classes)


OWN: dict[str, Callable[..., nn.Module]] = {"vgg11": vgg11, "resnet12": resnet12}


@dataclass(frozen=True)
class Shape:
    """A network that descendants are.

    Attributes:
        name: ``vgg11`` and ``resnet12`` are gtl's own, the others torchvision's or shallower ones of its layers.
        width: factor on all its channels.
    """

    name: str
    width: float

    def __str__(self) -> str:
        return f"{self.name} x {self.width:g}"

    @property
    def convolutions(self) -> int:
        """3 x 3 convolutions one after the other: its depth, without the head."""
        modules = build_network(self.name, 1 / 16, 2, 0).modules()
        return sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in modules)


# Narrower, as wide, wider; shallower, deeper; the other family; layers of others' making.
SHAPES = (
    *(Shape("vgg11", width) for width in (0.125, 0.25, 0.5, 1.0)),
    *(Shape("resnet12", width) for width in (0.1875, 0.25)),
    *(Shape(name, 0.25) for name in SHALLOW),
    *(Shape(name, 0.25) for name in DEEP if name != "vgg11_bn"),  # vgg11_bn is gtl's vgg11
    Shape("vgg16_bn", 0.5),
    *(Shape(name, width) for width in (0.125, 0.25) for name in BLOCKS),
)


@dataclass(frozen=True, eq=False)
class Inherited:
    """A start (`gtl.fewshot.Start`): newborns of a shape, random but for what they inherit.

    Attributes:
        gene: None: nothing.
    """

    shape: Shape
    gene: Learngene | None = None

    def __call__(self, classes: int, seed: int) -> nn.Module:
        """A newborn; `seed` is of everything that is not inherited."""
        return self.born(classes, seed)[0]

    def born(self, classes: int, seed: int = 0) -> tuple[nn.Module, InheritReport | None]:
        """A newborn, and what it inherited."""
        network = build_network(self.shape.name, self.shape.width, classes, seed)
        return network, None if self.gene is None else inherit(network, self.gene)

    @cached_property
    def digest(self) -> str:
        """Of everything that its newborns depend on: shape and gene, and the code that builds and places."""
        found = hashlib.sha256(f"{self.shape} {version('torchvision')}".encode())
        found.update(Path(__file__).read_bytes())
        if self.gene is not None:
            placing = Path(gtl.learngene.__file__).parent
            for text in (self.gene.digest, *((placing / f"{name}.py").read_text() for name in ("inherit", "placing"))):
                found.update(text.encode())
        return found.hexdigest()
