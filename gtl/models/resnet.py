"""ResNet12 of the few-shot literature: four stages of three 3x3 convolutions with a 1x1 shortcut.

Widths 64-128-256-512, or 64-160-320-640 (Lee et al. 2019, MetaOptNet). No DropBlock.
"""

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
    conv_kernels,
    global_average,
)

FAMILIES = {"64-128-256-512": (64, 128, 256, 512), "64-160-320-640": (64, 160, 320, 640)}
PARTS = ("a", "b", "out")
SLOPE = 0.1


def _stage(stage: str) -> Block:
    units = tuple(Unit(f"{stage}.{part}.conv", f"{stage}.{part}.norm", f"{stage}.{part}") for part in PARTS)
    shortcut = Unit(f"{stage}.out.shortcut", f"{stage}.out.shortcut_norm", f"{stage}.out")
    return Block(units, residual=True, shortcut=shortcut)


BACKBONE = Backbone(tuple((_stage(f"stage{i}"),) for i in range(1, 5)), slope=SLOPE)


def stage_widths(family: str) -> dict[str, int]:
    """Channels per group for one of the FAMILIES: ``stage1.a``, ``stage1.b``, ``stage1.out``, ``stage2.a``, ..."""
    return {f"stage{i}.{part}": width for i, width in enumerate(FAMILIES[family], start=1) for part in PARTS}


def resnet12_layout(widths: Mapping[str, int], num_classes: int) -> ChannelLayout:
    """Layout of a ResNet12: the third convolution and the shortcut meet at an addition and share group ``out``."""
    builder = LayoutBuilder(widths, num_classes)
    source: str | None = None
    for i in range(1, len(widths) // len(PARTS) + 1):
        stage_input = source
        for part in PARTS:
            group = f"stage{i}.{part}"
            builder.conv(f"{group}.conv", group, source, kernel=3)
            builder.norm(f"{group}.norm", group)
            source = group
        assert source is not None
        builder.conv(f"{source}.shortcut", source, stage_input, kernel=1)
        builder.norm(f"{source}.shortcut_norm", source)
    assert source is not None
    return builder.finish(source)


class JoinUnit(ConvNormUnit):
    """Last convolution of a stage and its 1x1 shortcut: what meets at the addition, one channel group."""

    def __init__(self, in_channels: int, stage_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.shortcut = conv_kernels(1, stage_channels, out_channels)
        self.shortcut_norm = nn.BatchNorm2d(out_channels)

    def join(self, x: torch.Tensor, stage_input: torch.Tensor) -> torch.Tensor:
        """Sum of both branches, before the activation."""
        joined: torch.Tensor = self(x) + self.shortcut_norm(self.shortcut(stage_input))
        return joined


class ResNet12(ConvNet):
    """ResNet12 built from one width per channel group; square images of 28 to 84 pixels.

    Args:
        spec: arch ``"resnet12"``, widths for ``stage1.a`` .. ``stage4.out``, number of classes.
    """

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = dict(spec.widths)
        inputs = IMAGE_CHANNELS
        for i in range(1, len(widths) // len(PARTS) + 1):
            a, b, out = (widths[f"stage{i}.{part}"] for part in PARTS)
            units = {"a": ConvNormUnit(inputs, a), "b": ConvNormUnit(a, b), "out": JoinUnit(b, inputs, out)}
            self.add_module(f"stage{i}", nn.ModuleDict(units))
            inputs = out
        self.head = nn.Linear(inputs, spec.num_classes)

    @cached_property
    def _layout(self) -> ChannelLayout:
        return resnet12_layout(self.widths, self.spec.num_classes)

    @property
    def layout(self) -> ChannelLayout:
        """Twelve groups: ``a``, ``b`` and ``out`` of each stage."""
        return self._layout

    def activations(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Leaky-rectified output of every group, before pooling."""
        found: dict[str, torch.Tensor] = {}
        for stage in self._stages:
            found |= self._groups(stage, x)
            x = F.max_pool2d(found[f"{stage}.out"], 2) if stage != self._stages[-1] else found[f"{stage}.out"]
        return found

    def stages(self) -> dict[str, Stage]:
        """``stage1`` .. ``stage4``, each with the pooling behind it (the last one's, too), and ``pooled``."""
        return {**{stage: partial(self._stage, stage) for stage in self._stages}, POOLED: global_average}

    @property
    def _stages(self) -> tuple[str, ...]:
        return tuple(f"stage{i}" for i in range(1, len(self.spec.widths) // len(PARTS) + 1))

    def _stage(self, stage: str, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(self._groups(stage, x)[f"{stage}.out"], 2)

    def _groups(self, stage: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Activations of a stage's groups."""
        a, b, out = (self.get_submodule(f"{stage}.{part}") for part in PARTS)
        assert isinstance(out, JoinUnit)
        found = {f"{stage}.a": F.leaky_relu(a(x), SLOPE, inplace=True)}
        found[f"{stage}.b"] = F.leaky_relu(b(found[f"{stage}.a"]), SLOPE, inplace=True)
        found[f"{stage}.out"] = F.leaky_relu(out.join(found[f"{stage}.b"], x), SLOPE, inplace=True)
        return found
