"""Critics: what a gene is worth, measured on validation classes. Selection sees nothing else.

All critics answer one question for one gene and one task: how much of the score images do they get right after learning
from the fit images. The ridge critics look at all depths, because a descendant uses partial circuits too, unless
`critic.depths` has them read the deepest alone: what has yet to live must carry its features to the end. Leave-one-out
ridge makes no difference between the two sets: it learns from all images but one, and is scored on that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from gtl.config import CriticSection, TrainingSection
from gtl.data.augment import to_input
from gtl.data.images import ImageSet, refuse_novel
from gtl.genotype import Genotype
from gtl.models import ArchSpec, ConvNet
from gtl.phenotype import folded, newborn, thin_network
from gtl.seeds import derive, rng
from gtl.training import Compute, accuracy, place, train

SHORT_BATCH = 64
POOL = 2  # features are averaged over a 2 x 2 grid, so that a little of where things are remains


@dataclass(frozen=True)
class CriticTask:
    """One classification task of validation classes: images to learn from and disjoint images to be scored on."""

    fit: ImageSet
    score: ImageSet


@dataclass(frozen=True)
class Gene:
    """A gene as critics see it: family and widths of its hosts, genotype, tensors."""

    host: ArchSpec
    genotype: Genotype
    tensors: Mapping[str, torch.Tensor]

    @cached_property
    def network(self) -> ConvNet:
        """The gene as a network of its own, built once for all tasks; critics only evaluate it, so its norms are folded."""
        return folded(thin_network(self.host.arch, self.genotype, self.tensors))


def draw_tasks(val: ImageSet, section: CriticSection, seed: int, count: int) -> list[CriticTask]:
    """The critic's `count` tasks for `seed`: the same for everyone who asks with the same seed (common random numbers).

    Raises:
        NovelClassesError: `val` holds novel classes.
        DataError: a class has too few images.
    """
    refuse_novel(val, "the critic")
    tasks = []
    for number in range(count):
        draw = rng(seed, "critic", number)
        classes = draw.permutation(val.n_classes)[: section.n_way or val.n_classes].tolist()
        fit, score = val.draw_per_class(draw, section.fit_images, section.score_images, classes=classes)
        tasks.append(CriticTask(fit, score))
    return tasks


@torch.no_grad()
def pooled_features(network: ConvNet, images: ImageSet, compute: Compute, depths: int | None = None) -> torch.Tensor:
    """Activations of the deepest `depths` groups, of all if None, averaged over a 2 x 2 grid.

    Returns:
        float32 ``(N, 4 * channels of these groups)``, groups in the order of the network.
    """
    place(network, compute)
    network.eval()
    rows = []
    for pixels in torch.split(images.to(compute.device).images, compute.eval_batch):
        with compute.context():
            found = list(network.activations(to_input(pixels, compute.memory_format)).values())
        read = found if depths is None else found[-depths:]
        rows.append(torch.cat([F.adaptive_avg_pool2d(a, POOL).flatten(1).float() for a in read], dim=1))
    return torch.cat(rows)


@dataclass(frozen=True)
class RidgeHead:
    """A linear classifier on features ``(N, D)``: called with them, it gives float64 scores ``(N, C)``.

    Attributes:
        mean, std: float32 ``(D,)``, of the features that it was fitted on.
        weights: float64 ``(D, C)``, on standardised features.
        offset: float64 ``(C,)``, shares of the classes.
    """

    mean: torch.Tensor
    std: torch.Tensor
    weights: torch.Tensor
    offset: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return ((features - self.mean) / self.std).double() @ self.weights + self.offset


def ridge_head(features: torch.Tensor, labels: torch.Tensor, ridge: float, classes: int = -1) -> RidgeHead:
    """Ridge regression to one-hot targets, closed form (dual: samples are fewer than features).

    Args:
        features: float32 ``(N, D)``; standardised here.
        labels: int64 ``(N,)``.
        ridge: regulariser relative to the mean squared feature norm.
        classes: C; -1: the largest label and one.
    """
    mean, std = moments(features)
    fit = ((features - mean) / std).double()
    targets = F.one_hot(labels, classes).double()
    offset = targets.mean(0)
    gram = fit @ fit.T
    regularised = gram + _penalty(gram, ridge) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return RidgeHead(mean, std, fit.T @ torch.linalg.solve(regularised, targets - offset), offset)


def ridge_accuracy(
    fit: torch.Tensor, labels: torch.Tensor, score: torch.Tensor, truth: torch.Tensor, ridge: float
) -> float:
    """Accuracy on `score` of the `ridge_head` of `fit`.

    Args:
        fit, score: features ``(N, D)`` and ``(M, D)``.
        labels, truth: int64 ``(N,)`` and ``(M,)``.
        ridge: as `ridge_head` has it.
    """
    predicted = ridge_head(fit, labels, ridge)(score).argmax(1)
    return float((predicted == truth).double().mean())


def leave_one_out_accuracy(features: torch.Tensor, labels: torch.Tensor, ridge: float) -> float:
    """Accuracy of ridge regression to one-hot targets on each image after a fit to all the others, in closed form.

    With K the Gram matrix of centred features, Y centred targets and G = K + aI, the fit without image i misses its target
    by ``(G^-1 Y)_i / ((G^-1)_ii - 1 / Na)`` (PRESS, Allen 1974, with an intercept). The intercept, too, must be fitted
    without the image: features centred by all images sum to zero, so the others would tell the left-out one's class.
    Scale and regulariser are those of all images.

    Args:
        features: ``(N, D)``.
        labels: int64 ``(N,)``.
        ridge: regulariser relative to the mean squared feature norm.
    """
    mean, std = moments(features)
    features, count = ((features - mean) / std).double(), len(features)
    gram = features @ features.T
    penalty = _penalty(gram, ridge)
    targets = F.one_hot(labels).double()
    targets = targets - targets.mean(0)
    inverse = torch.linalg.inv(gram + penalty * torch.eye(count, dtype=gram.dtype, device=gram.device))
    missed = inverse @ targets / (inverse.diagonal() - 1 / (count * penalty))[:, None]
    # without its intercept, which knows the left-out image's class as the one that is rarer by one
    predicted = targets * count / (count - 1) - missed
    predicted = predicted.round(decimals=9)  # a dead gene predicts zeros, up to rounding that depends on the target
    return float((predicted.argmax(1) == labels).double().mean())


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation to standardise with; a dead feature stays as it is."""
    mean, std = features.mean(0), features.std(0)
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))


def _penalty(gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """The regulariser, from one that is relative to the mean of a Gram matrix's diagonal."""
    return ridge * gram.diagonal().mean().clamp_min(1e-9)  # a dead gene has no feature, and scores chance


def nearest_class_mean(fit: torch.Tensor, labels: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Labels ``(M,)`` of the nearest class mean (Euclidean, unit-norm features), as in prototypical networks."""
    fit, score = F.normalize(fit, dim=1), F.normalize(score, dim=1)
    means = torch.zeros(int(labels.max()) + 1, fit.shape[1], dtype=fit.dtype, device=fit.device)
    means.index_add_(0, labels, fit)
    means /= torch.bincount(labels)[:, None]
    return torch.cdist(score, means).argmin(1)


NEIGHBOURS = 5


def k_nearest(fit: torch.Tensor, labels: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Labels ``(M,)`` by vote of the nearest of `fit`: 5, or as many as a class has (cosine similarity, weighted by it)."""
    similarity = F.normalize(score, dim=1) @ F.normalize(fit, dim=1).T
    count = min(NEIGHBOURS, int(torch.bincount(labels).max()))
    nearest = similarity.topk(count, dim=1)
    votes = torch.zeros(len(score), int(labels.max()) + 1, dtype=similarity.dtype, device=score.device)
    votes.scatter_add_(1, labels[nearest.indices], nearest.values + 1.0)  # cosines may be negative, votes are not
    return votes.argmax(1)


def _ridge(gene: Gene, task: CriticTask, section: CriticSection, seed: int, compute: Compute) -> float:
    fit, score = (pooled_features(gene.network, x, compute, section.depths) for x in (task.fit, task.score))
    truth = task.score.labels.to(score.device)
    return ridge_accuracy(fit, task.fit.labels.to(fit.device), score, truth, section.ridge)


def _leave_one_out_ridge(gene: Gene, task: CriticTask, section: CriticSection, seed: int, compute: Compute) -> float:
    seen = (task.fit, task.score)
    features = torch.cat([pooled_features(gene.network, images, compute, section.depths) for images in seen])
    labels = torch.cat([task.fit.labels, task.score.labels]).to(features.device)
    return leave_one_out_accuracy(features, labels, section.ridge)


def _nearest_class_mean(gene: Gene, task: CriticTask, section: CriticSection, seed: int, compute: Compute) -> float:
    network = gene.network
    fit, score = last_features(network, task.fit, compute), last_features(network, task.score, compute)
    found = nearest_class_mean(fit, task.fit.labels.to(fit.device), score)
    return float((found == task.score.labels.to(found.device)).double().mean())


def _short_training(gene: Gene, task: CriticTask, section: CriticSection, seed: int, compute: Compute) -> float:
    host = ArchSpec(gene.host.arch, gene.host.widths, task.fit.n_classes)
    network = newborn(host, gene.genotype, gene.tensors, derive(seed, "critic host"))
    recipe = TrainingSection(batch_size=SHORT_BATCH)
    train(network, task.fit, recipe, steps=section.steps, seed=derive(seed, "critic life"), compute=compute)
    return accuracy(network, task.score, compute)


@torch.no_grad()
def last_features(network: ConvNet, images: ImageSet, compute: Compute) -> torch.Tensor:
    """Pooled last features of all images, float32 ``(N, C_last)``."""
    place(network, compute)
    network.eval()
    return torch.cat(
        [
            network.features(to_input(p, compute.memory_format)).float()
            for p in torch.split(images.to(compute.device).images, compute.eval_batch)
        ]
    )


def critic_images(tasks: list[CriticTask], section: CriticSection) -> int:
    """Training images that one criticism consumes; the closed-form critics train on none."""
    if section.kind != "short_training":
        return 0
    return sum(section.steps * min(SHORT_BATCH, len(task.fit.labels)) for task in tasks)


Critic = Callable[[Gene, CriticTask, CriticSection, int, Compute], float]
CRITICS: dict[str, Critic] = {
    "ridge": _ridge,
    "leave_one_out_ridge": _leave_one_out_ridge,
    "short_training": _short_training,
    "nearest_class_mean": _nearest_class_mean,
}


def criticise(gene: Gene, tasks: list[CriticTask], section: CriticSection, seed: int, compute: Compute) -> list[float]:
    """Accuracy of `gene` on each task, in 0..1. `seed` fixes the short-training host, the same for a generation."""
    return [CRITICS[section.kind](gene, task, section, derive(seed, n), compute) for n, task in enumerate(tasks)]
