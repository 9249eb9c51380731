"""What a network's layers give on some images: the moments that an activation-weighted decomposition goes by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gtl.data.augment import to_input
from gtl.errors import ConfigError, DataError
from gtl.transfer.low_rank import as_matrix

BATCH = 128  # images that go through the network at once


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in eval mode, without gradients; every module's own mode afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def input_batches(network: nn.Module, images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Images as the network reads them, on its device.

    Args:
        images: uint8 ``(N, H, W, 3)``, normalised as gtl does, or a network's inputs as they are, ``(N, ...)``.

    Raises:
        DataError: no images.
    """
    if len(images) == 0:
        raise DataError("no images were given to look at; give some")
    device = next(network.parameters()).device
    for batch in torch.split(images, BATCH):
        yield to_input(batch.to(device)) if images.dtype == torch.uint8 else batch.to(device)


def run_over(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """A network's outputs in eval mode, batch by batch.

    Raises:
        ConfigError: it cannot read such images.
        DataError: no images.
    """
    with evaluating(network):
        try:
            return [network(batch) for batch in input_batches(network, images)]
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise ConfigError(
                f"the network cannot read images of shape {tuple(images.shape[1:])} ({images.dtype}): {reason}"
            ) from None


@dataclass(frozen=True, eq=False)
class OutputMoment:
    """What a layer gives on some images, its bias aside.

    Attributes:
        second: float64 ``(outputs, outputs)``, what a decomposition goes by.
        mean: float64 ``(outputs,)``.
    """

    second: torch.Tensor
    mean: torch.Tensor


class _Moment:
    """Collects E[y y^T] and E[y] of a layer's outputs without its bias, and the mean square of what its kernel reads."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        self.layer = layer
        outputs = layer.weight.shape[0]
        self.outer = torch.zeros(outputs, outputs, dtype=torch.float64, device=layer.weight.device)
        self.total = self.outer.new_zeros(outputs)
        self.squares, self.places = 0.0, 0

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """A forward hook."""
        layer, x = self.layer, inputs[0].detach()
        if isinstance(layer, nn.Conv2d):
            rows = output.detach().movedim(1, -1).flatten(0, -2).double()
            # the sum over a patch, padding included, of the squares in it
            height, width = layer.kernel_size
            ones = x.new_ones(1, 1, height, width)
            self.squares += float(self._patches(x.square().sum(dim=1, keepdim=True), ones).double().sum())
        else:
            rows = output.detach().flatten(0, -2).double()
            self.squares += float(x.double().square().sum())
        if layer.bias is not None:
            rows = rows - layer.bias.detach()
        self.outer += rows.T @ rows
        self.total += rows.sum(dim=0)
        self.places += len(rows)

    def _patches(self, squares: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        assert isinstance(layer, nn.Conv2d)
        if layer.padding_mode != "zeros":
            squares = F.pad(squares, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
            return F.conv2d(squares, ones, None, layer.stride, 0, layer.dilation)
        return F.conv2d(squares, ones, None, layer.stride, layer.padding, layer.dilation)

    def of(self, shrink: float, centred: bool) -> OutputMoment:
        """Moments shrunk to ``(1 - shrink) M + shrink m``, times the identity, before W and W^T are multiplied to them.

        m is tr(M) / d for d inputs; centred, what gives the outputs as much variance as they have.
        """
        weight = as_matrix(self.layer)
        plain, second, mean = weight @ weight.T, self.outer / self.places, self.total / self.places
        if centred:
            second = second - torch.outer(mean, mean)
            level = float(second.trace() / plain.trace().clamp_min(1e-300))
        else:
            level = self.squares / (self.places * weight.shape[1])
        return OutputMoment((1 - shrink) * second + shrink * level * plain, mean)


def output_moments(
    network: nn.Module,
    layers: Mapping[str, nn.Conv2d | nn.Linear],
    images: torch.Tensor,
    shrink: float,
    *,
    centred: bool = False,
) -> dict[str, OutputMoment]:
    """For each layer W M W^T, where M is the second moment of what the layer reads on these images, uncentred by default.

    Since W x is the layer's output without its bias, this is the moment of that output: exact for every kernel and width,
    padding included, at the price of one pass over the images.

    Args:
        network: is evaluated, and left as it was.
        layers: by name; their kernels read all input channels.
        images: as `input_batches` takes them.
        shrink: towards the identity, in 0..1: how much the images are not believed.
        centred: take the mean out, M being the covariance.

    Returns:
        On each layer's device; layers that no image reaches are left out.

    Raises:
        ConfigError: the network cannot read such images.
        DataError: no images, or activations that are not finite.
    """
    moments = {name: _Moment(layer) for name, layer in layers.items()}
    hooks: list[Any] = [layers[name].register_forward_hook(moment) for name, moment in moments.items()]
    try:
        run_over(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: moment.of(shrink, centred) for name, moment in moments.items() if moment.places}
    for name, moment in found.items():
        if not bool(torch.isfinite(moment.second).all()):
            raise DataError(
                f"on these images {name} gives values that are not finite; give images as it was trained on"
            )
    return found
