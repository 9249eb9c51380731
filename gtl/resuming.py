"""Long trainings that go on where a killed process left them.

What a training has reached lies in the cache folder until it is done, under a hash of everything that its end depends on.
Whoever does the same training there goes on from it, and ends with the same weights to the last bit. On another machine,
or without the folder, it is done from the beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
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
PREFIX = "training-"


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
    resume = _resume(name, network)
    last = time.monotonic()

    def on_epoch(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= SAVE_EVERY:
            _save(name, network, progress)
            last = time.monotonic()

    result = learn(resume=resume, on_epoch=on_epoch)
    discard(name)
    done = 0 if resume is None else resume.step
    return replace(result, images=result.images * steps // (steps - done))


def _save(name: str, network: torch.nn.Module, progress: Progress) -> None:
    arrays = {f"network.{n}": _array(tensor) for n, tensor in network.state_dict().items()}
    arrays |= {f"momentum.{number}": _array(tensor) for number, tensor in enumerate(progress.momentum)}
    sweep_cache(PREFIX, ABANDONED)
    write_arrays(name, {**arrays, "step": np.array(progress.step)})


def _resume(name: str, network: torch.nn.Module) -> Progress | None:
    """Put what was saved into the network; None if nothing was."""
    saved = read_arrays(name)
    if saved is None:
        return None
    network.load_state_dict({n: torch.from_numpy(saved[f"network.{n}"]) for n in network.state_dict()})
    count = sum(1 for _ in network.parameters())
    return Progress(int(saved["step"]), tuple(torch.from_numpy(saved[f"momentum.{i}"]) for i in range(count)))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()
