"""Long trainings that go on where a killed process left them.

What a training has reached lies in the cache folder until it is done, under a hash of everything that its end depends on.
Whoever does the same training there goes on from it, and ends with the same weights to the last bit. On another machine,
or without the folder, it is done from the beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from gtl.config import TrainingSection
from gtl.data.batches import Batches, Environment
from gtl.data.cache import discard, read_arrays, sweep_cache, write_arrays
from gtl.data.images import ImageSet
from gtl.training import Compute, Loss, Progress, TrainingResult, train
from gtl.versions import code_digest, state_digest, versions

SAVE_EVERY = 30.0  # seconds of work that a kill may cost, and the time that an epoch takes
ABANDONED = 14 * 24 * 3600.0  # seconds after which nobody will come back for a training
PREFIX, STEP = "training-", "step"


def train_resumable(
    network: torch.nn.Module,
    images: ImageSet | Environment,
    recipe: TrainingSection,
    *,
    key: Callable[[], Mapping[str, Any]],
    steps: int,
    seed: int,
    compute: Compute,
    update_scale: Mapping[str, torch.Tensor] | None = None,
    loss: Loss | None = None,
) -> TrainingResult:
    """`gtl.training.train` of a network that is as it was when a killed process began to train it.

    Args:
        key: gives JSON that the pixels and the loss are recognised by; everything else is found out here. Not called for
            a training that nothing is kept of.

    Returns:
        All images count, also those that the killed process trained on; seconds are of this process, and the mean loss is
        of its last steps.
    """
    if isinstance(images, ImageSet):
        images = Environment.of(images, recipe.crop_padding, compute.device)
    learn = partial(
        train, network, images, recipe, steps=steps, seed=seed, compute=compute, update_scale=update_scale, loss=loss
    )
    if steps <= Batches(images, recipe.batch_size, seed).per_epoch:
        return learn()  # no epoch ends before it does
    words = [dict(key()), recipe.model_dump(mode="json"), steps, seed, versions(compute), code_digest()]
    state = {"rows": images.rows, "labels": images.labels, **network.state_dict()}
    state |= {f"scale of {name}": factor for name, factor in (update_scale or {}).items()}
    name = f"{PREFIX}{state_digest(words, state)[:40]}.npz"
    found = read_arrays(name)
    resume = None if found is None else resumed(network, _saved(found))
    result = learn(resume=resume, on_epoch=saving(network, partial(_save, name), SAVE_EVERY))
    discard(name)
    done = 0 if resume is None else resume.step
    return replace(result, images=result.images * steps // (steps - done))


@dataclass(frozen=True)
class Saved:
    """A training between two epochs: the steps done, the network's tensors and the optimiser's, by name."""

    step: int
    tensors: dict[str, torch.Tensor]


def saving(network: torch.nn.Module, save: Callable[[Saved], None], seconds: float) -> Callable[[Progress], None]:
    """To be called after every epoch: calls `save`, at most every so many seconds."""
    last = time.monotonic()

    def on_epoch(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < seconds:
            return
        names = [name for name, _ in network.named_parameters()]
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"momentum.{name}": momentum for name, momentum in zip(names, progress.momentum, strict=True)}
        save(Saved(progress.step, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
        last = time.monotonic()

    return on_epoch


def resumed(network: torch.nn.Module, saved: Saved) -> Progress:
    """Put what was saved into the network; what `gtl.training.train` goes on from."""
    network.load_state_dict({name: saved.tensors[f"network.{name}"] for name in network.state_dict()})
    return Progress(saved.step, tuple(saved.tensors[f"momentum.{name}"] for name, _ in network.named_parameters()))


def _save(name: str, saved: Saved) -> None:
    sweep_cache(PREFIX, ABANDONED)
    write_arrays(name, {STEP: np.array(saved.step), **{n: tensor.numpy() for n, tensor in saved.tensors.items()}})


def _saved(arrays: Mapping[str, np.ndarray]) -> Saved:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name != STEP}
    return Saved(int(arrays[STEP]), tensors)
