"""What a training reads: the batch of every step, the same for the same seed wherever the training stops and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch

from gtl.data.augment import Augmenter, to_input
from gtl.data.images import ImageSet
from gtl.seeds import derive


@dataclass(frozen=True)
class Environment:
    """What one network learns from: some images of a padded set on the training device. Copies no image.

    Attributes:
        crops: the padded set.
        rows: int64 ``(N,)``, positions in it.
        labels: int64 ``(N,)``, the classes of `rows`, as the network numbers them.
    """

    crops: Augmenter
    rows: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, images: ImageSet, pad: int, device: torch.device) -> Environment:
        """All images of a set, padded and placed on the device now."""
        images = images.to(device)
        return cls(Augmenter(images, pad=pad), torch.arange(len(images.labels), device=device), images.labels)


class Batches:
    """The batches of one training.

    Args:
        environment: where they are drawn from.
        batch_size: images of a batch; all of them, if there are fewer.
        seed: seeds order and augmentation. Every epoch has its own, so a training can go on at any of them.
        memory_format: of the inputs.
    """

    def __init__(
        self,
        environment: Environment,
        batch_size: int,
        seed: int,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self._environment = environment
        self._seed = seed
        self._format = memory_format
        self.size = min(batch_size, len(environment.labels))
        self.per_epoch = len(environment.labels) // self.size

    def epoch(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs float32 ``(B, 3, S, S)`` and labels int64 ``(B,)``; images that do not fill a batch are left out."""
        found, device = self._environment, self._environment.labels.device
        generator = torch.Generator(device).manual_seed(derive(self._seed, "epoch", number))
        order = torch.randperm(len(found.labels), generator=generator, device=device)
        for index in torch.split(order[: self.per_epoch * self.size], self.size):
            pixels = found.crops.batch(found.rows[index], generator)
            yield to_input(pixels, self._format), found.labels[index]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch after the other, without end."""
        for number in count():
            yield from self.epoch(number)
