"""Lessons: trainings of descendants (`gtl.fewshot.Training`) in which a parent takes part.

The parent is a whole trained network. It knows other classes than the descendant is to learn, so it first learns these, from
the descendant's own few images and for as many steps: a taught descendant costs about twice the fine-tuning images, and more
time, as the parent is larger. Both come out of the trial's seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from gtl.config import TrainingSection
from gtl.data.images import ImageSet
from gtl.distillation import Teacher
from gtl.errors import ConfigError
from gtl.learngene.kept import kept
from gtl.learngene.starts import Initialisation
from gtl.seeds import derive
from gtl.surgery import GeneTensors
from gtl.training import Compute, Loss, Progress, TrainingResult, train
from gtl.transfer.hkt import HKT
from gtl.transfer_section import TransferSection
from gtl.versions import source_digest


@dataclass(frozen=True, eq=False)
class Parent:
    """Who teaches.

    Attributes:
        start: bears the trained network, with a new head.
        rates: (images a class, learning rate) of its fine-tuning; with other numbers of images the descendant's own rate.
        image_size: pixels of the images that it was trained on; None: not known.
    """

    start: Initialisation
    rates: tuple[tuple[int, float], ...] = ()
    image_size: int | None = None

    @property
    def key(self) -> list[Any]:
        """All of it, as JSON."""
        return [self.start.digest, [list(pair) for pair in self.rates], self.image_size]

    def grown(
        self, images: ImageSet, recipe: TrainingSection, *, steps: int, seed: int, compute: Compute
    ) -> tuple[nn.Module, TrainingResult]:
        """The network, fine-tuned on a descendant's images by its recipe, and how that went; kept in the cache folder.

        Raises:
            ConfigError: the images are of another size than it was trained on.
        """
        if self.image_size not in (None, images.image_size):
            raise ConfigError(
                f"the parent was trained on images of {self.image_size} pixels, the descendant's have {images.image_size}; "
                f"give a parent for these, or images of {self.image_size} pixels (data.image_size)"
            )
        rate = dict(self.rates).get(min(images.class_counts.values()), recipe.learning_rate)
        recipe, seed = recipe.model_copy(update={"learning_rate": rate}), derive(seed, "parent")
        network = self.start(images.n_classes, derive(seed, "newborn"))
        seen = steps * min(recipe.batch_size, len(images.labels))
        result = TrainingResult(True, 0.0, seen, 0.0)

        def learn() -> GeneTensors:
            nonlocal result
            result = train(network, images, recipe, steps=steps, seed=derive(seed, "training"), compute=compute)
            if not result.finite:
                raise _DivergedError
            return network.to("cpu").state_dict()

        key = {
            "kind": "parent",
            "start": self.start.digest,
            "images": images.digest,
            "recipe": recipe.model_dump(mode="json"),
            "steps": steps,
            "seed": seed,
        }
        try:
            network.load_state_dict(kept(key, learn, compute))
        except _DivergedError:
            return network, result
        return network.to("cpu").eval(), result


class _DivergedError(Exception):
    """Keeps a parent that is not finite out of the cache."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """A training in which a parent takes part; what it does is the subclass's.

    Attributes:
        parent: who teaches.
        section: how.
    """

    parent: Parent
    section: TransferSection = field(default_factory=TransferSection)

    @cached_property
    def digest(self) -> str:
        """sha256 of everything above, of what kind it is, and of the code that teaches."""
        code = source_digest("transfer/hkt.py", "transfer/lessons.py", "transfer/mixers.py", "distillation.py")
        parts = [type(self).__name__, self.parent.key, self.section.lessons, code]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def train(
        self,
        network: nn.Module,
        images: ImageSet,
        recipe: TrainingSection,
        *,
        steps: int,
        seed: int,
        compute: Compute,
        on_epoch: Callable[[Progress], None] | None = None,
    ) -> TrainingResult:
        """As `gtl.fewshot.Training` says; the parent is fine-tuned first. A parent that diverges ends it.

        Raises:
            ConfigError: the parent does not fit the descendant or its images, or there is no such tap.
        """
        self.check(network, self.parent.start(images.n_classes, 0), images.image_size, self.section)
        parent, grown = self.parent.grown(images, recipe, steps=steps, seed=seed, compute=compute)
        if not grown.finite:
            return grown
        student, loss = self.arranged(network, parent, images, recipe, derive(seed, "transfer"), compute)
        result = train(student, images, recipe, steps=steps, seed=seed, compute=compute, loss=loss, on_epoch=on_epoch)
        return replace(result, images=result.images + grown.images, seconds=result.seconds + grown.seconds)

    @classmethod
    def check(cls, network: nn.Module, parent: nn.Module, image_size: int, section: TransferSection) -> None:
        """Refuse networks that do not go together, before anything is trained; only their shapes count.

        Raises:
            ConfigError: they do not.
        """

    def arranged(
        self,
        network: nn.Module,
        parent: nn.Module,
        images: ImageSet,
        recipe: TrainingSection,
        seed: int,
        compute: Compute,
    ) -> tuple[nn.Module, Loss]:
        """What is trained in the network's place, and what it minimises."""
        raise NotImplementedError  # pragma: no cover - abstract


class HereditaryTransfer(Lesson):
    """HKT: features of the parent are mixed into the descendant's (`gtl.transfer.hkt`)."""

    def arranged(
        self,
        network: nn.Module,
        parent: nn.Module,
        images: ImageSet,
        recipe: TrainingSection,
        seed: int,
        compute: Compute,
    ) -> tuple[nn.Module, Loss]:
        """Child and parent as one network, and the sum of the losses of its paths."""
        hkt = hkt_of(
            network, parent, images.image_size, self.section, label_smoothing=recipe.label_smoothing, seed=seed
        )
        return hkt, hkt.loss

    @classmethod
    def check(cls, network: nn.Module, parent: nn.Module, image_size: int, section: TransferSection) -> None:
        """As `Lesson.check`: taps that there are not, other images or classes."""
        hkt_of(network, parent, image_size, section)


def hkt_of(
    child: nn.Module,
    parent: nn.Module,
    image_size: int,
    section: TransferSection,
    *,
    label_smoothing: float = 0.0,
    seed: int = 0,
) -> HKT:
    """`gtl.transfer.hkt.HKT` with the options of a configuration."""
    return HKT(
        child,
        parent,
        image_size=image_size,
        taps=section.taps,
        mixer=section.mixer,
        strength=section.strength,
        paths=section.paths,
        released=section.released,
        label_smoothing=label_smoothing,
        seed=seed,
    )


class Distillation(Lesson):
    """The descendant is asked for the parent's answers, too (`gtl.distillation`)."""

    def arranged(
        self,
        network: nn.Module,
        parent: nn.Module,
        images: ImageSet,
        recipe: TrainingSection,
        seed: int,
        compute: Compute,
    ) -> tuple[nn.Module, Loss]:
        """The network itself, and Hinton's loss."""
        teacher = Teacher.copied(
            parent,
            share=self.section.distill,
            temperature=self.section.temperature,
            label_smoothing=recipe.label_smoothing,
            compute=compute,
        )
        return network, teacher.loss


TRANSFERS: dict[str, type[Lesson]] = {"hkt": HereditaryTransfer, "distillation": Distillation}
