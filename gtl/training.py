"""The one training loop: ancestors, lives, critics and descendants all use `train`.

The images lie on the device as uint8; batches are cropped, mirrored and normalised there. Every epoch draws from its own
seed, so training can stop and go on at any epoch boundary and give the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch.nn import functional as F

from gtl.config import ComputeSection, TrainingSection
from gtl.data.augment import to_input
from gtl.data.batches import Batches, Environment
from gtl.data.images import ImageSet
from gtl.descent import Descent
from gtl.errors import ConfigError
from gtl.machine import keep_freed_memory

# Logits (float32), labels, inputs of a batch -> its mean loss.
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
NORM_BATCH = 128  # images that a norm averages over at once, whatever the device: it is part of the result


@dataclass(frozen=True)
class Compute:
    """Where and how to compute.

    Attributes:
        device: where.
        autocast: type of forward passes; None: float32 throughout.
        memory_format: how the four-dimensional weights and the inputs lie in memory.
    """

    device: torch.device
    autocast: torch.dtype | None
    memory_format: torch.memory_format = torch.channels_last

    @property
    def eval_batch(self) -> int:
        """Images that are evaluated at once: what a CPU's cache holds, what fills a GPU. Changes no number."""
        return 128 if self.device.type == "cpu" else 1024

    @property
    def words(self) -> dict[str, str]:
        """Precision and memory format, as the configuration's compute section says them."""
        contiguous = self.memory_format == torch.contiguous_format
        return {
            "precision": "float32" if self.autocast is None else "bfloat16",
            "memory_format": "contiguous" if contiguous else "channels_last",
        }

    def context(self) -> torch.autocast:
        """Autocast context for forward passes."""
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, dtype=self.autocast or torch.bfloat16, enabled=enabled)


def resolve_compute(section: ComputeSection) -> Compute:
    """Pick device, threads, precision and memory format. Sets the number of CPU threads of this process, which keeps the
    memory that it frees from now on (`gtl.machine.keep_freed_memory`).

    Raises:
        ConfigError: a GPU that is not there.
    """
    compute = pick_compute(section)
    if section.threads:
        torch.set_num_threads(section.threads)
    keep_freed_memory()
    return compute


def pick_compute(section: ComputeSection) -> Compute:
    """`resolve_compute` that changes nothing."""
    name = section.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise ConfigError(f"compute.device is {name}, but there is no such GPU here; set compute.device=auto or cpu")
    precision = section.precision
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16(device) else "float32"
    memory_format = torch.contiguous_format if section.memory_format == "contiguous" else torch.channels_last
    return Compute(device, torch.bfloat16 if precision == "bfloat16" else None, memory_format)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions run in hardware (emulated ones are slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute with so many CPU threads (0: as before), and then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def place(network: torch.nn.Module, compute: Compute) -> None:
    """Move a network to the device, its weights in the memory format to compute in."""
    network.to(compute.device)
    network.to(memory_format=compute.memory_format)


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


# One step of a training, with the arguments of `learn`; gives the loss on the batch.
Learner = Callable[
    [torch.nn.Module, torch.Tensor, torch.Tensor, "Descent", int, Compute, "Loss | None"],
    torch.Tensor,
]


def train(
    network: torch.nn.Module,
    images: ImageSet | Environment,
    recipe: TrainingSection,
    *,
    steps: int,
    seed: int,
    compute: Compute,
    update_scale: Mapping[str, torch.Tensor] | None = None,
    loss: Loss | None = None,
    learner: Learner | None = None,
    resume: Progress | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train `network` in place by its recipe (`gtl.descent`) on cross-entropy.

    Args:
        network: any that maps images to logits, on any device; is moved to `compute.device`.
        images: the training images, or where they lie prepared on the device (with the recipe's crop padding). The
            network's head must have their number of classes.
        steps: optimiser steps in all.
        seed: seeds batches and augmentation.
        update_scale: parameter name -> factor on its update (broadcastable); 0 holds a weight exactly, whatever
            momentum and weight decay say. Used for frozen genes and masked zero blocks.
        loss: what is minimised instead of the recipe's cross-entropy.
        learner: what one step is, instead of `learn`. What it keeps between steps is not part of `resume`.
        resume: continue from this state; the network must hold the weights of that moment.
        on_epoch: called with the state after every epoch but the last. Its tensors are the optimiser's own: copy what
            is to outlive the call.
    """
    began = time.perf_counter()
    device = compute.device
    place(network, compute)
    if isinstance(images, ImageSet):
        images = Environment.of(images, recipe.crop_padding, device)
    batches = Batches(images, recipe.batch_size, seed, compute.memory_format)
    descent = Descent(dict(network.named_parameters()), recipe, steps, update_scale)
    step = 0
    if resume is not None:
        step = resume.step
        descent.restore(resume.momentum)
    start, tail, one_step = step, Tail(steps), learner or learn
    while step < steps:
        network.train()  # whoever was called between epochs may have evaluated the network
        for inputs, labels in islice(batches.epoch(step // batches.per_epoch), steps - step):
            tail.add(step, one_step(network, inputs, labels, descent, step, compute, loss))
            step += 1
        if on_epoch is not None and step < steps:
            on_epoch(Progress(step, descent.momentum()))
    loss_value = float(tail.mean())
    finite = math.isfinite(loss_value) and all_finite(network.state_dict().values())
    return TrainingResult(finite, loss_value, (steps - start) * batches.size, time.perf_counter() - began)


def learn(
    network: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    labels: torch.Tensor,
    descent: Descent,
    step: int,
    compute: Compute,
    loss: Loss | None = None,
) -> torch.Tensor:
    """One step of a training: forward, backward, update. Returns the loss on this batch."""
    with compute.context():
        logits = network(inputs)
    if loss is None:
        found = F.cross_entropy(logits.float(), labels, label_smoothing=descent.recipe.label_smoothing)
    else:
        found = loss(logits.float(), labels, inputs)
    descent.step(found, step)
    return found


class Tail:
    """Mean of the losses of the last tenth of the steps; nothing is read from the device before it is asked for."""

    def __init__(self, steps: int) -> None:
        self._first = steps - max(1, steps // 10)
        self._losses: list[torch.Tensor] = []

    def add(self, step: int, loss: torch.Tensor) -> None:
        """The loss of a step; a scalar, or one for each of several networks."""
        if step >= self._first:
            self._losses.append(loss.detach())

    def mean(self) -> torch.Tensor:
        """Shaped as the losses; 0 if there was no step."""
        return torch.stack(self._losses).mean(0) if self._losses else torch.zeros(())


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no tensor holds an infinity or NaN; waits for the device once."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


@torch.no_grad()
def reestimate_norms(network: torch.nn.Module, images: torch.Tensor, compute: Compute) -> None:
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
    batches = max(1, len(images) // NORM_BATCH)
    for batch in images.to(compute.device).chunk(batches):
        network(to_input(batch, compute.memory_format))
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.zero_()


@torch.no_grad()
def hits(network: torch.nn.Module, images: ImageSet, compute: Compute) -> torch.Tensor:
    """Which of `images` the network classifies rightly in eval mode: bool ``(N,)`` on the device."""
    place(network, compute)
    network.eval()
    images = images.to(compute.device)
    found = []
    for pixels, labels in zip(
        torch.split(images.images, compute.eval_batch), torch.split(images.labels, compute.eval_batch), strict=True
    ):
        with compute.context():
            logits = network(to_input(pixels, compute.memory_format))
        found.append(logits.argmax(1) == labels)
    return torch.cat(found)


def accuracy(network: torch.nn.Module, images: ImageSet, compute: Compute) -> float:
    """Share of `images` that the network classifies rightly, in eval mode."""
    return int(hits(network, images, compute).sum()) / len(images.labels)
