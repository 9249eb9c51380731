"""VGG11 with batch norm, global average pooling and a linear head (Simonyan & Zisserman 2015, configuration A)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial

import torch
from torch import nn
from torch.nn import functional as F

from gtl.layout import ChannelLayout
from gtl.models.backbone import Backbone, Block, Unit
from gtl.models.base import (
    IMAGE_CHANNELS,
    POOLED,
    ArchSpec,
    ConvNet,
    ConvNormUnit,
    LayoutBuilder,
    Stage,
    global_average,
)

WIDTHS = {f"conv{i}": width for i, width in enumerate((64, 128, 256, 256, 512, 512, 512, 512), start=1)}
# Max-pooling follows these groups. Global average pooling takes the place of the fifth, so 28 x 28 images fit too.
SHRUNK = ("conv1", "conv2", "conv4", "conv6")
LEVELS = (("conv1",), ("conv2",), ("conv3", "conv4"), ("conv5", "conv6"), ("conv7", "conv8"))
BACKBONE = Backbone(
    tuple(tuple(Block((Unit(f"{group}.conv", f"{group}.norm", group),)) for group in level) for level in LEVELS)
)


def vgg11_layout(widths: Mapping[str, int], num_classes: int) -> ChannelLayout:
    """Layout of a VGG11 with these widths: eight groups in a chain."""
    builder = LayoutBuilder(widths, num_classes)
    source: str | None = None
    for group in WIDTHS:
        builder.conv(f"{group}.conv", group, source, kernel=3)
        builder.norm(f"{group}.norm", group)
        source = group
    assert source is not None
    return builder.finish(source)


class VGG11(ConvNet):
    """VGG11 built from one width per channel group; square images of 28 to 84 pixels.

    Args:
        spec: arch ``"vgg11"``, widths for ``conv1`` .. ``conv8``, number of classes.
    """

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        inputs = IMAGE_CHANNELS
        for group, width in spec.widths:
            self.add_module(group, ConvNormUnit(inputs, width))
            inputs = width
        self.head = nn.Linear(inputs, spec.num_classes)

    @cached_property
    def _layout(self) -> ChannelLayout:
        return vgg11_layout(self.widths, self.spec.num_classes)

    @property
    def layout(self) -> ChannelLayout:
        """Eight groups ``conv1`` .. ``conv8``, each read by the next."""
        return self._layout

    def activations(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rectified output of every group, before pooling."""
        found = {}
        for group, _ in self.spec.widths:
            x = F.relu(self.get_submodule(group)(x), inplace=True)
            found[group] = x
            if group in SHRUNK:
                x = F.max_pool2d(x, 2)
        return found

    def stages(self) -> dict[str, Stage]:
        """``conv1`` .. ``conv8``, each with the pooling and the rectifier behind it, and ``pooled``."""
        return {**{group: partial(self._stage, group) for group, _ in self.spec.widths}, POOLED: global_average}

    def _stage(self, group: str, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(group)(x)
        if group in SHRUNK:  # before the rectifier: the same numbers and gradients, and a quarter as many to rectify
            x = F.max_pool2d(x, 2)
        return F.relu(x, inplace=True)
