"""The one training loop: ancestors, lives, critics and descendants all use `train`.

The images lie on the device as uint8; batches are cropped, mirrored and normalised there. Every epoch draws from its own
seed, so training can stop and go on at any epoch boundary and give the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from gtl.config import ComputeSection, TrainingSection
from gtl.data.augment import Augmenter, to_input
from gtl.data.images import ImageSet
from gtl.errors import ConfigError
from gtl.models import ConvNet
from gtl.seeds import derive

EVAL_BATCH = 512


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute: a device, and the autocast type (None: float32 throughout)."""

    device: torch.device
    autocast: torch.dtype | None

    def context(self) -> torch.autocast:
        """Autocast context for forward passes."""
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, dtype=self.autocast or torch.bfloat16, enabled=enabled)


def resolve_compute(section: ComputeSection) -> Compute:
    """Pick device, threads and precision. Sets the number of CPU threads of this process.

    Raises:
        ConfigError: a GPU that is not there.
    """
    name = section.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise ConfigError(f"compute.device is {name}, but there is no such GPU here; set compute.device=auto or cpu")
    if section.threads:
        torch.set_num_threads(section.threads)
    precision = section.precision
    if precision == "auto":
        precision = "bfloat16" if _fast_bfloat16(device) else "float32"
    return Compute(device, torch.bfloat16 if precision == "bfloat16" else None)


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions run in hardware (emulated ones are slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def place(network: ConvNet, compute: Compute) -> None:
    """Move a network to the device, channels last (what convolutions are fastest on)."""
    network.to(compute.device)
    network.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        finite: False if the loss or a weight left the finite numbers.
        loss: mean training loss over the last tenth of the steps.
        images: images consumed.
        seconds: wall time.
    """

    finite: bool
    loss: float
    images: int
    seconds: float


@dataclass(frozen=True)
class Progress:
    """State of a training at an epoch boundary: enough to go on and end with the same weights."""

    step: int
    momentum: tuple[torch.Tensor, ...]


def train(
    network: ConvNet,
    images: ImageSet,
    recipe: TrainingSection,
    *,
    steps: int,
    seed: int,
    compute: Compute,
    update_scale: Mapping[str, torch.Tensor] | None = None,
    resume: Progress | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train `network` in place by SGD with momentum on cross-entropy.

    Args:
        network: on any device; is moved to `compute.device`.
        images: the training images; the network's head must have their number of classes.
        steps: optimiser steps in all.
        seed: seeds batches and augmentation.
        update_scale: parameter name -> factor on its update (broadcastable); 0 holds a weight exactly, whatever
            momentum and weight decay say. Used for frozen genes and masked zero blocks.
        resume: continue from this state; the network must hold the weights of that moment.
        on_epoch: called with the state after every epoch but the last. Its tensors are the optimiser's own: copy what
            is to outlive the call.
    """
    began = time.perf_counter()
    device = compute.device
    place(network, compute)
    images = images.to(device)
    augmenter = Augmenter(images, pad=recipe.crop_padding)
    parameters = dict(network.named_parameters())
    optimiser = torch.optim.SGD(
        parameters.values(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=True,
    )
    scaled = _scaled_parameters(parameters, update_scale)
    count = len(images.labels)
    batch_size = min(recipe.batch_size, count)
    per_epoch = count // batch_size
    step = 0
    if resume is not None:
        step = resume.step
        for parameter, buffer in zip(parameters.values(), resume.momentum, strict=True):
            # in the parameter's own memory layout: the fused optimiser walks through both as they lie in memory
            optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer).detach()
    total, tail_losses = step, []
    while step < steps:
        epoch = step // per_epoch
        generator = torch.Generator(device).manual_seed(derive(seed, "epoch", epoch))
        order = torch.randperm(count, generator=generator, device=device)
        network.train()  # whoever was called between epochs may have evaluated the network
        for batch in range(min(per_epoch, steps - step)):
            index = order[batch * batch_size : (batch + 1) * batch_size]
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * schedule(step, steps, recipe)
            inputs = to_input(augmenter.batch(index, generator))
            with compute.context():
                logits = network(inputs)
            loss = F.cross_entropy(logits.float(), images.labels[index], label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            before = [parameter.detach().clone() for parameter, _ in scaled]
            optimiser.step()
            with torch.no_grad():
                for (parameter, factor), old in zip(scaled, before, strict=True):
                    parameter.copy_(torch.where(factor == 0, old, old + factor * (parameter - old)))
            step += 1
            if step > steps - max(1, steps // 10):
                tail_losses.append(loss.detach())
        if on_epoch is not None and step < steps:
            on_epoch(Progress(step, tuple(_momentum(optimiser, parameter) for parameter in parameters.values())))
    loss_value = float(torch.stack(tail_losses).mean()) if tail_losses else 0.0
    finite = math.isfinite(loss_value) and all(bool(torch.isfinite(t).all()) for t in network.state_dict().values())
    return TrainingResult(finite, loss_value, (steps - total) * batch_size, time.perf_counter() - began)


def schedule(step: int, steps: int, recipe: TrainingSection) -> float:
    """Factor on the learning rate at `step` of `steps`: linear warm-up, then cosine to zero or constant."""
    warm = recipe.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


def _momentum(optimiser: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> torch.Tensor:
    """The parameter's momentum; zero where the recipe has none, and the optimiser keeps no buffer."""
    buffer = optimiser.state[parameter].get("momentum_buffer")
    return torch.zeros_like(parameter).detach() if buffer is None else buffer


def _scaled_parameters(
    parameters: Mapping[str, torch.nn.Parameter], update_scale: Mapping[str, torch.Tensor] | None
) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """The parameters whose updates are scaled, with their factors on the right device."""
    scale = update_scale or {}
    return [(parameters[name], factor.to(parameters[name])) for name, factor in scale.items() if name in parameters]


@torch.no_grad()
def reestimate_norms(network: ConvNet, images: torch.Tensor, compute: Compute) -> None:
    """Replace every norm's running statistics by those of `images`, uint8 ``(N, H, W, 3)``; weights do not change.

    A circuit cut out of a dense network no longer sees what its norms were measured on (methods.md 1.3, trap).
    """
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average over the batches
    place(network, compute)
    network.train()
    batches = max(1, len(images) // EVAL_BATCH)
    for batch in images.to(compute.device).chunk(batches):
        network.features(to_input(batch))
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.zero_()


@torch.no_grad()
def accuracy(network: ConvNet, images: ImageSet, compute: Compute) -> float:
    """Share of `images` that the network classifies rightly, in eval mode."""
    place(network, compute)
    network.eval()
    images = images.to(compute.device)
    right = torch.zeros((), dtype=torch.int64, device=compute.device)
    for pixels, labels in zip(
        torch.split(images.images, EVAL_BATCH), torch.split(images.labels, EVAL_BATCH), strict=True
    ):
        with compute.context():
            logits = network(to_input(pixels))
        right += (logits.argmax(1) == labels).sum()
    return float(right) / len(images.labels)
