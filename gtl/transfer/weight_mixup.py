"""Weight mixup: every layer of a descendant is a mean of what it inherited and what it learned, in learned shares.

After attention-guided weight mixup (Somayajula et al., NAACL 2024, arXiv 2403.12918): a weight is ``a * trained +
(1 - a) * inherited``; the weights learn on one split of the training images and the attentions ``a`` on the other
(80 : 20); then the attentions are fixed, and the weights learn on all images. What is ours, and differs:

* One share a layer. The paper has one for every weight, of rank one; its released code mixes with ``a1 a2`` and
  ``(1 - a1)(1 - a2)``, which do not add up to one, while ours is the convex mean that the paper describes.
* First order: the shares' gradient is taken at the weights as they are. The paper differentiates through one step of the
  weights, by finite differences.
* Equal cost: a step of the shares takes the place of a step of the weights, so that the rule uses as many steps and batches as
  any other. One split, drawn from the seed; the released code averages over five.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional as F

from gtl.config import TrainingSection
from gtl.data.batches import Batches, Environment
from gtl.data.images import ImageSet
from gtl.descent import Descent
from gtl.errors import DataError
from gtl.seeds import derive, rng
from gtl.training import Compute, Loss, TrainingResult, learn, place, train
from gtl.transfer.rule import OnEpoch, Rule, head_names, shown, write


@dataclass(frozen=True)
class WeightMixup(Rule):
    """Two trainings by the recipe, each with its own schedule: a search for the shares, then the weights on all images.

    Shares are clamped to [0, 1], as in the released code; at 0 a layer is what it was at birth and at 1 what it learned,
    exactly. The head inherits nothing and is not mixed. What is handed back is the mean, in a network of the same cost.
    With ``search=0`` nothing is learned about the shares, and with ``initial=1``, too, this is the plain training, to the
    last bit.

    Attributes:
        initial: every layer's share of what it learned, at first, in [0, 1].
        search: share of the steps that the search takes, in [0, 1); 0: the shares stay as they are.
        held_out: share of each class's images that the shares learn from, at least one image, in (0, 1).
        every: each so many-th step of the search is the shares'; at least 2.
        rate: learning rate of the shares, by Adam; above 0.
    """

    name: ClassVar[str] = "weight-mixup"
    initial: float = 1.0
    search: float = 0.5
    held_out: float = 0.2
    every: int = 5
    rate: float = 0.02

    def __post_init__(self) -> None:
        self._check("initial", 0.0, 1.0)
        self._check("search", 0.0, 1.0, "[)")
        self._check("held_out", 0.0, 1.0, "()")
        self._check("every", 2, 1_000_000, whole=True)
        self._check("rate", 0.0, 1.0, "(]")

    def train(
        self,
        network: torch.nn.Module,
        images: ImageSet,
        recipe: TrainingSection,
        *,
        steps: int,
        seed: int,
        compute: Compute,
        on_epoch: OnEpoch = None,
    ) -> TrainingResult:
        """As `gtl.training.train`, of the weights that are mixed with those of birth.

        Raises:
            DataError: a class has one image only, so that it cannot be split.
        """
        place(network, compute)
        mixture = Mixture(network, self.initial, self.rate)
        first, searched = min(round(self.search * steps), max(0, steps - 1)), None
        if first:
            searched = self._search(mixture, images, recipe, first, derive(seed, "search"), compute, on_epoch)
            if not searched.finite:
                return searched
        result = train(
            network, images, recipe, steps=steps - first, seed=seed, compute=compute,
            learner=partial(_learn_weights, mixture), on_epoch=shown(network, mixture.weights, on_epoch, first),
        )  # fmt: skip
        write(network, mixture.weights())
        if searched is None:
            return result
        return replace(result, images=result.images + searched.images, seconds=result.seconds + searched.seconds)

    def _search(
        self,
        mixture: Mixture,
        images: ImageSet,
        recipe: TrainingSection,
        steps: int,
        seed: int,
        compute: Compute,
        on_epoch: OnEpoch,
    ) -> TrainingResult:
        """Weights and shares in turn, each on its own split."""
        fit, held = split(images, self.held_out, rng(seed, "split"))
        environment = Environment.of(held, recipe.crop_padding, compute.device)
        batches = Batches(environment, recipe.batch_size, derive(seed, "shares"), compute.memory_format)
        learner = partial(self._learn_in_turn, mixture, iter(batches))
        result = train(
            mixture.network, fit, recipe, steps=steps, seed=seed, compute=compute, learner=learner,
            on_epoch=shown(mixture.network, mixture.weights, on_epoch),
        )  # fmt: skip
        fewer = min(recipe.batch_size, len(fit.labels)) - batches.size  # images in a batch of the shares
        return replace(result, images=result.images - steps // self.every * fewer)

    def _learn_in_turn(
        self,
        mixture: Mixture,
        batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
        network: torch.nn.Module,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        descent: Descent,
        step: int,
        compute: Compute,
        loss: Loss | None = None,
    ) -> torch.Tensor:
        if (step + 1) % self.every:
            return _learn_weights(mixture, network, inputs, labels, descent, step, compute, loss)
        inputs, labels = next(batches)
        return mixture.learn_shares(inputs, labels, descent.recipe.label_smoothing, compute)


class Mixture:
    """A network whose layers, but the head, are means of their weights at birth and the weights that it holds.

    Args:
        network: at birth; the weights that it holds from now on are the trained ones.
        initial: share of the trained weights in every layer.
        rate: learning rate of the shares.

    Attributes:
        network: the one given.
        layers: names of the modules that hold the mixed parameters.
        shares: float32 ``(L,)``, in the order of `layers`.
    """

    def __init__(self, network: torch.nn.Module, initial: float, rate: float) -> None:
        self.network = network
        head = head_names(network)
        learned = {name: p for name, p in network.named_parameters() if p.requires_grad and name not in head}
        self._born = {name: parameter.detach().clone() for name, parameter in learned.items()}
        self.layers = tuple(dict.fromkeys(name.rpartition(".")[0] for name in learned))
        device = next(network.parameters()).device
        self.shares = torch.full((len(self.layers),), initial, device=device, requires_grad=True)
        self._optimiser = torch.optim.Adam([self.shares], lr=rate)

    def weights(self) -> dict[str, torch.Tensor]:
        """The means, by name, as they are now; no gradient reaches the shares."""
        return mixed(self._born, dict(self.network.named_parameters()), self._share_of(self.shares.detach()))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the mean."""
        logits: torch.Tensor = functional_call(self.network, self.weights(), (x,))
        return logits

    def learn_shares(
        self, inputs: torch.Tensor, labels: torch.Tensor, label_smoothing: float, compute: Compute
    ) -> torch.Tensor:
        """One step of the shares at the weights as they are; returns the loss on the batch."""
        trained = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        weights = mixed(self._born, trained, self._share_of(self.shares))
        with compute.context():
            logits = functional_call(self.network, weights, (inputs,))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        if self.layers:
            (self.shares.grad,) = torch.autograd.grad(loss, [self.shares])
            self._optimiser.step()
            with torch.no_grad():
                self.shares.clamp_(0.0, 1.0)
        return loss.detach()

    def _share_of(self, shares: torch.Tensor) -> dict[str, torch.Tensor]:
        by_layer = dict(zip(self.layers, shares.unbind(), strict=True))
        return {name: by_layer[name.rpartition(".")[0]] for name in self._born}


def mixed(
    born: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], shares: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``(1 - share) * born + share * trained`` for every tensor of `born`: exactly the one at 0, exactly the other at 1."""
    return {name: (1.0 - shares[name]) * tensor + shares[name] * trained[name] for name, tensor in born.items()}


def split(images: ImageSet, share: float, draw: np.random.Generator) -> tuple[ImageSet, ImageSet]:
    """Two disjoint parts of a set: the second has about this share of each class, at least one image of it, not all.

    Raises:
        DataError: a class has one image only; names it.
    """
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for label, name in enumerate(images.class_names):
        rows = draw.permutation(images.indices_of(label))
        if len(rows) < 2:
            raise DataError(
                f"{images.source}: class {name!r} has one image, and weight-mixup splits every class in two; give it two, "
                "or search=0"
            )
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        parts[0].append(np.sort(rows[count:]))
        parts[1].append(np.sort(rows[:count]))
    first, second = (torch.from_numpy(np.concatenate(part)).to(images.labels.device) for part in parts)
    return (
        replace(images, images=images.images[first], labels=images.labels[first]),
        replace(images, images=images.images[second], labels=images.labels[second]),
    )


def _learn_weights(
    mixture: Mixture,
    network: torch.nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    descent: Descent,
    step: int,
    compute: Compute,
    loss: Loss | None = None,
) -> torch.Tensor:
    return learn(mixture, inputs, labels, descent, step, compute, loss)
