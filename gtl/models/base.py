"""What every gtl network is made of: ArchSpec, the conv-norm unit, and the ConvNet base that declares its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from gtl.layout import ChannelLayout, Slot

MAX_WIDTH = 65536
IMAGE_CHANNELS = 3
POOLED = "pooled"  # the stage after the last convolution: the global average

# One step of a network's way from images to features.
Stage = Callable[[torch.Tensor], torch.Tensor]


def global_average(x: torch.Tensor) -> torch.Tensor:
    """``(B, C, H, W)`` -> ``(B, C)``."""
    return x.mean(dim=(2, 3))


@dataclass(frozen=True)
class ArchSpec:
    """Enough to rebuild a network anywhere: a registry name and bounded integers, no import path.

    Attributes:
        arch: registry name, for example ``"vgg11"``.
        widths: channels per group, in forward order.
        num_classes: outputs of the linear head.
    """

    arch: str
    widths: tuple[tuple[str, int], ...]
    num_classes: int

    def __post_init__(self) -> None:
        for name, value in (*self.widths, ("num_classes", self.num_classes)):
            if not 1 <= value <= MAX_WIDTH:
                raise ValueError(f"{self.arch}: {name} = {value} is outside 1..{MAX_WIDTH}")


def conv_kernels(kernel: int, in_channels: int, out_channels: int) -> nn.Conv2d:
    """Bias-free convolution that keeps height and width (normalisation follows)."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)


class ConvNormUnit(nn.Module):
    """3x3 convolution and batch norm: one group's tensors under one name (``conv.*``, ``norm.*``)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv_kernels(3, in_channels, out_channels)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in, H, W)`` -> ``(B, out, H, W)``, before the activation."""
        result: torch.Tensor = self.norm(self.conv(x))
        return result


class ConvNet(nn.Module):
    """Base of the gtl networks: pooled features, a linear head, and a declared ChannelLayout.

    Subclasses define `stages`, which are the features step by step, and `activations`, which are those of every group.
    """

    head: nn.Linear
    spec: ArchSpec

    @property
    def widths(self) -> dict[str, int]:
        """Channels per group."""
        return dict(self.spec.widths)

    @property
    def layout(self) -> ChannelLayout:
        """The table group -> (tensor, axis, stride), checked against this network when it was built."""
        raise NotImplementedError  # pragma: no cover - abstract

    def activations(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Post-normalisation activation of every group, ``{group: (B, C, H, W)}``, for images ``(B, 3, H, W)``."""
        raise NotImplementedError  # pragma: no cover - abstract

    def stages(self) -> dict[str, Stage]:
        """The way from images to `features`, by name and in order; the last stage, ``pooled``, gives ``(B, C_last)``."""
        raise NotImplementedError  # pragma: no cover - abstract

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Globally average-pooled last activation, ``(B, C_last)``."""
        for stage in self.stages().values():
            x = stage(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class logits ``(B, num_classes)`` for images ``(B, 3, H, W)``."""
        logits: torch.Tensor = self.head(self.features(x))
        return logits

    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter afresh: He-normal (fan out) kernels, unit norms, small uniform head."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                module.weight.data.normal_(0.0, (2.0 / fan_out) ** 0.5, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.data.uniform_(-bound, bound, generator=generator)
                module.bias.data.zero_()


class LayoutBuilder:
    """Collects a network's table while it is declared group by group."""

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        self.widths = dict(widths)
        self.num_classes = num_classes
        self.slots: dict[str, list[Slot]] = {group: [] for group in widths}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.norms: dict[str, tuple[str, ...]] = dict.fromkeys(widths, ())

    def conv(self, name: str, group: str, source: str | None, kernel: int) -> None:
        """Convolution `name` that writes `group` and reads `source` (None: the image)."""
        inputs = IMAGE_CHANNELS if source is None else self.widths[source]
        self.shapes[f"{name}.weight"] = (self.widths[group], inputs, kernel, kernel)
        self.slots[group].append(Slot(f"{name}.weight", 0))
        if source is not None:
            self.slots[source].append(Slot(f"{name}.weight", 1))

    def norm(self, name: str, group: str) -> None:
        """Batch norm `name` of `group`."""
        for kind in ("weight", "bias", "running_mean", "running_var"):
            self.shapes[f"{name}.{kind}"] = (self.widths[group],)
            self.slots[group].append(Slot(f"{name}.{kind}", 0))
        self.shapes[f"{name}.num_batches_tracked"] = ()
        self.norms[group] += (name,)

    def finish(self, source: str) -> ChannelLayout:
        """Add the linear head that reads `source`."""
        self.shapes["head.weight"] = (self.num_classes, self.widths[source])
        self.shapes["head.bias"] = (self.num_classes,)
        self.slots[source].append(Slot("head.weight", 1))
        slots = {group: tuple(slots) for group, slots in self.slots.items()}
        return ChannelLayout(self.widths, slots, self.shapes, frozenset({"head.weight", "head.bias"}), self.norms)
