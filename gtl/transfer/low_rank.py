"""Low-rank layers with experts: what InherNet puts in the place of convolutions and linear layers.

One down-projection to r features is shared by H up-projections, whose outputs a softmax gate weighs (Zhou et al. 2026,
"Beyond Student: An Asymmetric Network for Neural Network Inheritance", arXiv 2602.09509): ``y = sum_h g_h(x) up_h(down(x)) +
bias``. The weights of a gate sum to one, so H equal experts are one low-rank layer, whatever the gate says.

An inherited layer has ``r * (inputs + H * outputs) + outputs * [bias] + H * (r + 1) * [H > 1]`` parameters, where the
inputs of a convolution are the entries of a patch, input channels times kernel height times kernel width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)


def inherited_parameters(inputs: int, outputs: int, rank: int, experts: int, *, bias: bool) -> int:
    """Parameters of an inherited layer, by the formula above; its gate counted, which one expert does not have."""
    gate = experts * (rank + 1) if experts > 1 else 0
    return rank * (inputs + experts * outputs) + gate + outputs * bias


def blank(make: Callable[[], M]) -> M:
    """A module with no values in it yet, made without drawing any."""
    with torch.device("meta"):
        made = make()
    return made.to_empty(device="cpu")


def convolution_like(layer: nn.Conv2d, outputs: int, *, bias: bool) -> nn.Conv2d:
    """A convolution with the kernel, stride, padding and dilation of another, `blank`."""
    return blank(
        lambda: nn.Conv2d(
            layer.in_channels,
            outputs,
            layer.kernel_size,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            bias=bias,
            padding_mode=layer.padding_mode,
        )
    )


class _InheritedLayer(nn.Module):
    """What both kinds share. Newly made, every parameter is zero.

    Attributes:
        down: the shared projection to `rank` features, without a bias.
        up: ``(experts, outputs, rank)``.
        bias: ``(outputs,)``, added once; None where the layer had none.
        gate: logits of the experts from the features; None with one expert.
    """

    bias: nn.Parameter | None

    def __init__(self, down: nn.Conv2d | nn.Linear, outputs: int, rank: int, experts: int, *, bias: bool) -> None:
        super().__init__()
        self.rank, self.experts = rank, experts
        self.down = down
        self.up = nn.Parameter(torch.empty(experts, outputs, rank))
        self.register_parameter("bias", nn.Parameter(torch.empty(outputs)) if bias else None)
        self.gate = blank(lambda: nn.Linear(rank, experts)) if experts > 1 else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """The gate's weights ``(..., experts)`` for features ``(..., rank)``; they sum to one."""
        if self.gate is None:
            return features.new_ones((*features.shape[:-1], 1))
        return F.softmax(self.gate(features), dim=-1)

    @torch.no_grad()
    def inherit(self, factors: Factors, bias: torch.Tensor | None, scale: float = 1.0) -> None:
        """Take factors of a weight, the same in every expert, and a bias.

        Args:
            factors: of this layer's rank.
            bias: of the layer that is inherited from.
            scale: of the outputs: 1 is the exact start.
        """
        self.down.weight.copy_(factors.down.view_as(self.down.weight))
        self.up.copy_(scale * factors.up)
        if self.bias is not None and bias is not None:
            self.bias.copy_(scale * bias)

    @torch.no_grad()
    def tell_apart(self, deviation: float, generator: torch.Generator) -> None:
        """Let equal experts become different ones; what the layer computes does not change.

        Equal experts get equal gradients under a constant gate, and the gate gets none, whatever it says. So either
        the experts deviate by amounts that sum to zero, under a gate that is zero (InherAct), or the gate is random.

        Args:
            deviation: of each expert's weights from their mean, in standard deviations of the weights; 0: random gate,
                drawn as torch draws linear layers.
            generator: on the CPU.
        """
        if self.gate is None:
            return
        if deviation == 0:
            bound = self.rank**-0.5
            for parameter in (self.gate.weight, self.gate.bias):
                drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                parameter.copy_(drawn)
            return
        noise = torch.randn(self.up.shape, generator=generator)
        noise = (noise - noise.mean(dim=0)) * (self.experts / (self.experts - 1)) ** 0.5
        self.up.add_((deviation * self.up.std(correction=0)) * noise.to(self.up))

    def merged_up(self, weights: torch.Tensor | None = None) -> torch.Tensor:
        """The experts as one, ``(outputs, rank)``: their mean with these weights ``(experts,)``; None: the gate's own at 0."""
        if weights is None:
            weights = self.weights(self.up.new_zeros(self.rank))
        return torch.einsum("h,hor->or", weights.to(self.up), self.up)

    @property
    def gate_is_constant(self) -> bool:
        """Whether the gate cannot change what the layer computes: it reads nothing, or has nothing to choose."""
        if self.gate is None or not bool(self.gate.weight.any()):
            return True
        return bool((self.up == self.up[:1]).all())


class InheritedConv2d(_InheritedLayer):
    """A convolution to r features with the kernel, stride, padding and dilation of the layer that it inherits from, then
    1x1 convolutions, whose gate reads the features' global average.
    """

    down: nn.Conv2d

    @classmethod
    def like(cls, layer: nn.Conv2d, rank: int, experts: int) -> InheritedConv2d:
        """One of the shape of `layer`, on its device, every parameter zero."""
        down = convolution_like(layer, rank, bias=False)
        made = cls(down, layer.out_channels, rank, experts, bias=layer.bias is not None)
        return made.to(layer.weight.device, layer.weight.dtype).train(layer.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C_in, H, W)`` -> ``(B, C_out, H', W')``."""
        features = self.down(x)
        if self.gate is None:
            return F.conv2d(features, self.up[0][:, :, None, None], self.bias)
        # One matrix an image, the mean of its experts': the same as the mean of their outputs, and cheaper.
        up = torch.einsum("bh,hor->bro", self.weights(features.mean(dim=(2, 3))), self.up)
        places = torch.bmm(features.flatten(2).transpose(1, 2), up.to(features.dtype))
        if self.bias is not None:
            places = places + self.bias.to(places.dtype)
        channels = places.transpose(1, 2)
        return channels.view(*channels.shape[:2], *features.shape[2:])


class InheritedLinear(_InheritedLayer):
    """A linear map to r features and linear maps from them, whose gate reads the features."""

    down: nn.Linear

    @classmethod
    def like(cls, layer: nn.Linear, rank: int, experts: int) -> InheritedLinear:
        """One of the shape of `layer`, on its device, every parameter zero."""
        down = blank(lambda: nn.Linear(layer.in_features, rank, bias=False))
        made = cls(down, layer.out_features, rank, experts, bias=layer.bias is not None)
        return made.to(layer.weight.device, layer.weight.dtype).train(layer.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., inputs)`` -> ``(..., outputs)``."""
        features = self.down(x)
        if self.gate is None:
            return F.linear(features, self.up[0], self.bias)
        each = F.linear(features, self.up.flatten(0, 1)).view(*features.shape[:-1], *self.up.shape[:2])
        mean = torch.einsum("...h,...ho->...o", self.weights(features).to(each.dtype), each)
        return mean if self.bias is None else mean + self.bias.to(mean.dtype)


InheritedLayer = InheritedConv2d | InheritedLinear


def inherited_like(layer: nn.Conv2d | nn.Linear, rank: int, experts: int) -> InheritedLayer:
    """The inherited layer of a layer's kind and shape, on its device, every parameter zero."""
    if isinstance(layer, nn.Conv2d):
        return InheritedConv2d.like(layer, rank, experts)
    return InheritedLinear.like(layer, rank, experts)


def inherited_layers(network: nn.Module) -> dict[str, InheritedLayer]:
    """The inherited layers of a network by name, in its own order."""
    return {n: module for n, module in network.named_modules() if isinstance(module, InheritedConv2d | InheritedLinear)}


def as_matrix(layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """A layer's weight as float64 ``(outputs, inputs)`` on its device; an input of a convolution is an entry of a patch."""
    return layer.weight.detach().double().flatten(1)


@dataclass(frozen=True, eq=False)
class Factors:
    """A weight of some rank as the product ``up @ down``.

    Attributes:
        down: float64 ``(rank, inputs)``.
        up: float64 ``(outputs, rank)``; its columns are as long as the rows of `down`.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """Directions of a layer's outputs, the most important first.

    For the plain singular value decomposition W = U S V^T they are the columns of U, and their energies S^2. With the second
    moment M = C C^T of the inputs they are those of W C, which give the least mean squared error of the outputs at every
    rank (InherAct's activation-weighted decomposition). Only W M W^T is needed for them, the moment of the outputs, which is
    why no approximation of M is, and no inverse of C.

    Attributes:
        energies: float64 ``(full rank,)``, not negative, descending.
        vectors: float64 ``(outputs, full rank)``, orthonormal columns.
    """

    energies: torch.Tensor
    vectors: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, moment: torch.Tensor | None = None) -> PrincipalAxes:
        """Axes of a weight.

        Args:
            weight: float64 ``(outputs, inputs)``.
            moment: W M W^T, ``(outputs, outputs)``; None: M is the identity.
        """
        energies, vectors = torch.linalg.eigh(weight @ weight.T if moment is None else moment)
        full = min(weight.shape)
        return cls(energies.flip(0)[:full].clamp_min(0.0), vectors.flip(1)[:, :full])

    def kept(self) -> torch.Tensor:
        """Share of the energy that ranks 1, 2, ... keep: float64 ``(full rank,)``, ascending to 1."""
        total = self.energies.sum()
        return self.energies.cumsum(0) / total if total > 0 else torch.ones_like(self.energies)

    def keeps(self, rank: int) -> float:
        """Share of the energy that a rank keeps, in 0..1."""
        return min(1.0, float(self.kept()[rank - 1]))

    def left_out(self, output: torch.Tensor, rank: int) -> torch.Tensor:
        """What the first `rank` axes do not give of an output ``(outputs,)``."""
        axes = self.vectors[:, :rank]
        return output - axes @ (axes.T @ output)

    def factors(self, weight: torch.Tensor, rank: int) -> Factors:
        """The projection of a weight on the first `rank` axes: for M = 1 its best approximation (Eckart-Young).

        Both factors are of equal scale, as the paper's U S^(1/2) and S^(1/2) V^T are.
        """
        up = self.vectors[:, :rank]
        down = up.T @ weight
        lengths = torch.linalg.vector_norm(down, dim=1)
        scale = torch.where(lengths > 0, lengths, 1.0).sqrt()
        return Factors(down / scale[:, None], up * scale)
