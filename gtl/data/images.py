"""ImageSet: labelled uint8 images of one role (train, val or novel classes), and Splits: the roles of one source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from gtl.errors import DataError, NovelClassesError

Role = Literal["train", "val", "novel"]
ROLES: tuple[Role, ...] = ("train", "val", "novel")


@dataclass(frozen=True)
class ImageSet:
    """Images of one role of one source, as one tensor.

    Attributes:
        images: uint8 ``(N, H, W, 3)``; height and width equal.
        labels: int64 ``(N,)``, sorted, 0..C-1, every class present.
        class_names: C names.
        role: which classes these are. Anything that selects refuses `novel`.
        source: name of the data source.
        mirror: whether a mirror image keeps its class (False for characters).
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    role: Role
    source: str
    mirror: bool

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise DataError(f"{self.source}: images must be uint8 (N, H, H, 3), got {self.images.dtype} {shape}")
        if self.labels.shape != (shape[0],) or self.labels.dtype != torch.int64:
            raise DataError(f"{self.source}: labels must be int64 ({shape[0]},), got {tuple(self.labels.shape)}")
        counts = torch.bincount(self.labels, minlength=self.n_classes)
        if len(counts) != self.n_classes or (counts == 0).any() or (self.labels.diff() < 0).any():
            raise DataError(f"{self.source}: labels must be sorted and cover 0..{self.n_classes - 1}")

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def digest(self) -> str:
        """sha256 over pixels, labels and whether they may be mirrored: what a training on them depends on."""
        found = hashlib.sha256(self.images.cpu().numpy().tobytes())
        found.update(json.dumps([self.labels.tolist(), self.mirror]).encode())
        return found.hexdigest()

    @property
    def image_size(self) -> int:
        """Height (= width) in pixels."""
        return int(self.images.shape[1])

    @property
    def class_counts(self) -> dict[str, int]:
        """Images per class, by name."""
        counts = torch.bincount(self.labels, minlength=self.n_classes).tolist()
        return dict(zip(self.class_names, counts, strict=True))

    def indices_of(self, label: int) -> np.ndarray:
        """Positions of one class's images: a contiguous range, as int64."""
        bounds = torch.searchsorted(self.labels, torch.tensor([label, label + 1], device=self.labels.device)).tolist()
        return np.arange(bounds[0], bounds[1])

    def rows_of(self, labels: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of these classes' images, and their classes renumbered 0.. in the order given; int64, on the CPU."""
        parts = [torch.from_numpy(self.indices_of(label)) for label in labels]
        counts = torch.tensor([len(part) for part in parts])
        return torch.cat(parts), torch.repeat_interleave(torch.arange(len(labels)), counts)

    def take_classes(self, labels: Sequence[int]) -> ImageSet:
        """Only these classes, renumbered 0.. in the order given."""
        index, renumbered = self.rows_of(labels)
        return replace(
            self,
            images=self.images[index.to(self.images.device)],
            labels=renumbered.to(self.labels.device),
            class_names=tuple(self.class_names[label] for label in labels),
        )

    def draw_per_class(
        self, rng: np.random.Generator, *counts: int, classes: Sequence[int] | None = None
    ) -> tuple[ImageSet, ...]:
        """Disjoint random subsets with ``counts[i]`` images of every class in subset i. Copies no other image.

        Args:
            rng: draws the images, class by class.
            counts: images per class of each subset.
            classes: only these, renumbered 0.. in the order given; None: all.

        Raises:
            DataError: a class has fewer than sum(counts) images; names it.
        """
        need = sum(counts)
        parts: list[list[np.ndarray]] = [[] for _ in counts]
        labels = range(self.n_classes) if classes is None else classes
        for label in labels:
            index, name = self.indices_of(label), self.class_names[label]
            if len(index) < need:
                raise DataError(f"{self.source}: class {name!r} has {len(index)} images, {need} are needed")
            drawn = rng.permutation(index)[:need]
            start = 0
            for part, count in zip(parts, counts, strict=True):
                part.append(np.sort(drawn[start : start + count]))
                start += count
        names = tuple(self.class_names[label] for label in labels)
        return tuple(
            replace(
                self,
                images=self.images[torch.from_numpy(np.concatenate(part)).to(self.images.device)],
                labels=torch.arange(len(names), device=self.labels.device).repeat_interleave(count),
                class_names=names,
            )
            for part, count in zip(parts, counts, strict=True)
        )

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """The roles of one source that were asked for, and the class lists of all roles.

    Attributes:
        sets: role -> images, only for the roles that were loaded.
        class_lists: role -> class names, for every role that the source has. Disjoint.
    """

    source: str
    sets: Mapping[Role, ImageSet]
    class_lists: Mapping[Role, tuple[str, ...]]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for role, names in self.class_lists.items():
            for name in names:
                if name in seen:
                    raise DataError(
                        f"{self.source}: class {name!r} is in {seen[name]} and in {role}; splits must be disjoint"
                    )
                seen[name] = role

    @property
    def digest(self) -> str:
        """sha256 over source and class lists; goes into every run and card."""
        lines = [f"{role}:{name}" for role in ROLES for name in self.class_lists.get(role, ())]
        return hashlib.sha256("\n".join([self.source, *lines]).encode()).hexdigest()

    def __getitem__(self, role: Role) -> ImageSet:
        if role not in self.sets:
            raise DataError(f"{self.source}: the {role} classes were not loaded or the source has none")
        return self.sets[role]


def refuse_novel(images: ImageSet, what: str) -> None:
    """Raise NovelClassesError if `images` are novel classes. Called by everything that trains a gene or selects."""
    if images.role == "novel":
        raise NovelClassesError(
            f"{what} was given the novel classes of {images.source}; they are for the final evaluation only. "
            "Use the train or val classes."
        )
