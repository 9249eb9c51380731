"""An InherNet's experts as one: a plain network of convolutions and linear layers, cheaper to run."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gtl.errors import ConfigError
from gtl.transfer.activation_moments import run_over
from gtl.transfer.low_rank import InheritedLayer, InheritedLinear, blank, convolution_like, inherited_layers


@dataclass(frozen=True)
class MergeReport:
    """What merging changed.

    Attributes:
        constant: layers whose gate is constant: merging them is exact.
        averaged: layers that were merged by the mean of their gate's weights over the images, which is not.
        error: norm of the difference of the network's outputs over the norm of its outputs, on the images; None without.
        before, after: parameters.
    """

    constant: tuple[str, ...]
    averaged: tuple[str, ...]
    error: float | None
    before: int
    after: int


def merge(
    inheritor: nn.Module, images: torch.Tensor | None = None, *, dense: bool = False
) -> tuple[nn.Module, MergeReport]:
    """A network without experts and gates; `inheritor` is not changed.

    A layer whose gate is constant is merged by the gate's weights, exactly. Another is merged by the mean weights that its
    gate gives on the images, which changes what it computes; the report says by how much.

    Args:
        images: as `gtl.transfer.inhernet.inhernet` takes them.
        dense: one convolution or linear layer for each, as the source had it, instead of two in a sequence.

    Raises:
        ConfigError: no inherited layer; a gate that is not constant, and no images.
        DataError: no images in `images`.
    """
    layers = inherited_layers(inheritor)
    if not layers:
        raise ConfigError(f"this {type(inheritor).__name__} has no inherited layer to merge; it is no InherNet")
    constant = tuple(name for name, layer in layers.items() if layer.gate_is_constant)
    averaged = tuple(name for name in layers if name not in constant)
    if averaged and images is None:
        more = f" and of {len(averaged) - 1} more" if len(averaged) > 1 else ""
        raise ConfigError(
            f"the gate of {averaged[0]}{more} is not constant; give images whose mean gates are to be merged by"
        )
    means: dict[str, _MeanGate] = {name: _MeanGate(layers[name]) for name in averaged}
    hooks: list[Any] = [layers[name].gate.register_forward_hook(mean) for name, mean in means.items()]  # type: ignore[union-attr]
    try:
        outputs = None if images is None else torch.cat(run_over(inheritor, images))
    finally:
        for hook in hooks:
            hook.remove()
    merged = copy.deepcopy(inheritor)
    for name, layer in layers.items():
        up = layer.merged_up(means[name].mean if name in means else None).detach()
        merged.set_submodule(name, _plain(layer, up, dense=dense).train(layer.training))
    error = None
    if images is not None and outputs is not None:
        difference = torch.cat(run_over(merged, images)) - outputs
        error = float(difference.norm() / outputs.norm().clamp_min(torch.finfo(outputs.dtype).tiny))
    before, after = (sum(p.numel() for p in network.parameters()) for network in (inheritor, merged))
    return merged, MergeReport(constant, averaged, error, before, after)


class _MeanGate:
    """Mean of a gate's weights over everything that it is asked about."""

    def __init__(self, layer: InheritedLayer) -> None:
        self.sum = torch.zeros(layer.experts, dtype=torch.float64, device=layer.up.device)
        self.count = 0

    def __call__(self, gate: nn.Module, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> None:
        """A forward hook of the gate."""
        weights = logits.double().softmax(dim=-1).flatten(0, -2)
        self.sum += weights.sum(dim=0)
        self.count += len(weights)

    @property
    def mean(self) -> torch.Tensor:
        """``(experts,)``; of a gate that no image reached, equal weights."""
        return self.sum / self.count if self.count else torch.full_like(self.sum, 1.0 / len(self.sum))


def _plain(layer: InheritedLayer, up: torch.Tensor, *, dense: bool) -> nn.Module:
    """The layer with one expert, made of torch's own modules."""
    weight = layer.down.weight.detach()
    outputs, bias = up.shape[0], layer.bias
    if dense:
        product = up.double() @ weight.double().flatten(1)
        weight = product.to(weight).view(outputs, *weight.shape[1:])
    if isinstance(layer, InheritedLinear):
        inputs = layer.down.in_features if dense else layer.rank
        linear = blank(lambda: nn.Linear(inputs, outputs, bias=bias is not None))
        return (
            _with(linear, weight, bias) if dense else nn.Sequential(copy.deepcopy(layer.down), _with(linear, up, bias))
        )
    if dense:
        return _with(convolution_like(layer.down, outputs, bias=bias is not None), weight, bias)
    last = blank(lambda: nn.Conv2d(layer.rank, outputs, 1, bias=bias is not None))
    return nn.Sequential(copy.deepcopy(layer.down), _with(last, up[:, :, None, None], bias))


def _with(made: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    made.to(weight.device, weight.dtype)
    made.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias.detach()}))
    return made
