"""torchvision's VGGs with batch norm and its ResNets: built by name, and their backbones. Imported when one is needed."""

from __future__ import annotations

from torch import nn
from torchvision.models import VGG, ResNet, get_model
from torchvision.models.resnet import Bottleneck

from gtl.errors import ConfigError
from gtl.models.backbone import Backbone, Block, Unit, register

NAMES = ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet18", "resnet34")


def torchvision_network(name: str, num_classes: int) -> nn.Module:
    """One of NAMES, without trained weights; random numbers are torch's global ones."""
    network: nn.Module = get_model(name, weights=None, num_classes=num_classes)
    return network


def vgg_backbone(network: VGG) -> Backbone:
    """vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn: every pooling begins a level.

    Raises:
        ConfigError: a VGG without batch norm.
    """
    levels: list[list[Block]] = [[]]
    modules = list(network.features.named_children())
    for (name, module), (next_name, following) in zip(modules, [*modules[1:], ("", nn.Identity())], strict=True):
        if isinstance(module, nn.MaxPool2d):
            levels.append([])
        elif isinstance(module, nn.Conv2d):
            if not isinstance(following, nn.BatchNorm2d):
                raise ConfigError("a gene brings its norms with it; use the VGG with batch norm (vgg11_bn and so on)")
            levels[-1].append(Block((Unit(f"features.{name}", f"features.{next_name}"),)))
    return Backbone(tuple(tuple(level) for level in levels if level))


def resnet_backbone(network: ResNet) -> Backbone:
    """resnet18, resnet34 and, with fewer places for 3x3 kernels, the deeper ones.

    The stem and the first layer are one level where the stem neither strides nor pools (the usual change for small images).
    """
    stem = Block((Unit("conv1", "bn1"),))
    levels = [[stem]]
    keeps_size = network.conv1.stride == (1, 1) and not isinstance(network.maxpool, nn.MaxPool2d)
    for number in (1, 2, 3, 4):
        blocks = []
        for name, block in network.get_submodule(f"layer{number}").named_children():
            prefix = f"layer{number}.{name}"
            parts = (1, 2, 3) if isinstance(block, Bottleneck) else (1, 2)
            units = tuple(Unit(f"{prefix}.conv{part}", f"{prefix}.bn{part}") for part in parts)
            projects = block.downsample is not None
            shortcut = Unit(f"{prefix}.downsample.0", f"{prefix}.downsample.1") if projects else None
            blocks.append(Block(units, residual=True, shortcut=shortcut))
        if number == 1 and keeps_size:
            levels[0] += blocks
        else:
            levels.append(blocks)
    return Backbone(tuple(map(tuple, levels)))


register(VGG, vgg_backbone)
register(ResNet, resnet_backbone)
