"""Child-Tuning: a descendant learns with a part of its parameters, the child network (Xu et al. 2021, arXiv 2109.05687).

The whole network computes; what is masked is who may learn. Both forms are for SGD with momentum here, where the paper and
its released code have AdamW. There only the gradient is masked, so that momentum and weight decay still move a masked
parameter; here a masked parameter does not move, as in the paper's equation for a plain gradient step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch.nn import functional as F

from gtl.config import TrainingSection
from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.descent import Descent
from gtl.seeds import rng
from gtl.training import Compute, Loss, TrainingResult, learn, place, reestimate_norms, train
from gtl.transfer.rule import OnEpoch, Rule, generator_of, head_names


@dataclass(frozen=True)
class ChildTuningFree(Rule):
    """Task-free Child-Tuning: at every step each parameter, the head's too, takes part with a probability of its own draw.

    A parameter that sits a step out keeps its weight and its momentum, and weight decay does not touch it: for it the step
    did not happen. Those that take part go 1 / probability as far, by gradient and by weight decay alike; without momentum
    and decay that is the paper's equation. The running statistics of norms are no parameters and always follow.

    Attributes:
        probability: p, that a parameter takes part in a step, in (0, 1]; at 1 this is the plain training, to the last bit.
    """

    name: ClassVar[str] = "child-tuning-free"
    probability: float = 0.3

    def __post_init__(self) -> None:
        self._check("probability", 0.0, 1.0, "(]")

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
        """As `gtl.training.train`, with a mask drawn at every step."""
        learner = None
        if self.probability < 1.0:
            # SGD's momentum is linear in the gradient, so a longer step is a larger gradient, decay included
            recipe = recipe.model_copy(update={"learning_rate": recipe.learning_rate / self.probability})
            learner = partial(self._learn, seed)
        return train(
            network, images, recipe, steps=steps, seed=seed, compute=compute, learner=learner, on_epoch=on_epoch
        )

    def _learn(
        self,
        seed: int,
        network: torch.nn.Module,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        descent: Descent,
        step: int,
        compute: Compute,
        loss: Loss | None = None,
    ) -> torch.Tensor:
        weights = [parameter.detach() for parameter in network.parameters()]
        before = [
            (weight.clone(), momentum.clone()) for weight, momentum in zip(weights, descent.momentum(), strict=True)
        ]
        found = learn(network, inputs, labels, descent, step, compute, loss)
        draws = generator_of(seed, step, compute.device)
        for weight, momentum, (old, old_momentum) in zip(weights, descent.momentum(), before, strict=True):
            out = torch.rand(weight.shape, generator=draws, device=weight.device) >= self.probability
            weight.copy_(torch.where(out, old, weight))
            momentum.copy_(torch.where(out, old_momentum, momentum))
        return found


@dataclass(frozen=True)
class ChildTuningDriven(Rule):
    """Task-driven Child-Tuning: only the parameters with the most Fisher information about the task learn, and the head.

    The mask is fixed before training. What it leaves out never moves at all, whatever momentum and weight decay say. The
    head is random at birth and always learns; the released code, too, masks the encoder's layers only.

    Attributes:
        share: p, the part of the parameters outside the head that learns, in (0, 1]; at 1 this is the plain training, to
            the last bit.
        images: training images that the information is estimated on, drawn at random where there are more.
    """

    name: ClassVar[str] = "child-tuning-driven"
    share: float = 0.3
    images: int = 512

    def __post_init__(self) -> None:
        self._check("share", 0.0, 1.0, "(]")
        self._check("images", 1, 1_000_000, whole=True)

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
        """As `gtl.training.train`, with the child network's parameters alone; the estimate's images count, too."""
        scale, seen = None, 0
        if self.share < 1.0:
            drawn = torch.from_numpy(rng(seed, "fisher").permutation(len(images.labels))[: self.images])
            drawn, seen = drawn.to(images.labels.device), len(drawn)
            information = fisher_information(network, images.images[drawn], images.labels[drawn], compute)
            # a factor of one is not quite no factor: it rounds
            scale = {name: child for name, child in child_network(information, self.share).items() if not child.all()}
        result = train(
            network, images, recipe, steps=steps, seed=seed, compute=compute, update_scale=scale, on_epoch=on_epoch
        )
        return replace(result, images=result.images + seen)


def fisher_information(
    network: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor, compute: Compute
) -> dict[str, torch.Tensor]:
    """Diagonal empirical Fisher information: the mean over images of (d log p(label | image) / d parameter)^2.

    As in the paper, image by image; the released code squares the gradients of whole batches. Each image passes alone, in
    eval mode, through norms whose statistics were measured on these images; `network` stays as it is.

    Args:
        pixels: uint8 ``(N, H, W, 3)``.
        labels: int64 ``(N,)``.

    Returns:
        Parameter name -> information, of the parameter's shape, for all that learn but the head's.
    """
    probe, pixels, labels = copy.deepcopy(network), pixels.to(compute.device), labels.to(compute.device)
    place(probe, compute)
    reestimate_norms(probe, pixels, compute)
    head = head_names(probe)
    asked = {name: p for name, p in probe.named_parameters() if p.requires_grad and name not in head}
    sums = {name: torch.zeros_like(parameter).detach() for name, parameter in asked.items()}
    for image, label in zip(torch.split(pixels, 1), torch.split(labels, 1), strict=True):
        if not asked:
            break
        with compute.context():
            logits = probe(to_input(image, compute.memory_format))
        surprise = F.cross_entropy(logits.float(), label)
        gradients = torch.autograd.grad(surprise, list(asked.values()), allow_unused=True, materialize_grads=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.addcmul_(gradient, gradient)
    return {name: total / len(labels) for name, total in sums.items()}


def child_network(information: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Which parameters learn: ``round(share * all)`` of them, at least one, with the most information; bool, by name.

    All tensors compete with each other. Of equal information, those that come first in the network.
    """
    if not information:
        return {}
    flat = torch.cat([each.flatten() for each in information.values()])
    child = torch.zeros_like(flat, dtype=torch.bool)
    child[torch.sort(flat, descending=True, stable=True).indices[: max(1, round(share * len(flat)))]] = True
    parts = torch.split(child, [each.numel() for each in information.values()])
    return {name: part.view(information[name].shape) for name, part in zip(information, parts, strict=True)}
