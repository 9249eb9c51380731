"""The critics of `benchmarks/critics.py` that are closed-form: heads on features of a gene, extracted once for all of them.

Features are most of the cost, so the seconds of a forward pass, of each pooling and of each head are taken apart: a critic
that looks at few layers on a coarse grid is charged for the whole pass, but not for the poolings of others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from gtl.critic import (
    CriticTask,
    Gene,
    k_nearest,
    last_features,
    leave_one_out_accuracy,
    moments,
    nearest_class_mean,
    ridge_accuracy,
    ridge_head,
)
from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.models import ConvNet
from gtl.training import Compute, place

GRIDS = (1, 2, 4)
# POOLED: what the classifier of a descendant would see
ALL, THIRD, LAST, POOLED = "all", "last third", "last", "pooled"
NEWTON_STEPS, EVIDENCE_STEPS = 50, 20

# Features to learn from, their labels, features to be scored on, their labels -> what the critic says.
Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], float]


@dataclass(frozen=True)
class Variant:
    """A closed-form critic.

    Attributes:
        head: what is learned on the features.
        taps: which groups' activations are the features.
        grid: side of the grid that they are averaged over.
        scores: whether it looks at the score images.
    """

    head: Head
    taps: str = ALL
    grid: int = 2
    scores: bool = True


@dataclass(frozen=True, eq=False)
class Features:
    """What a gene makes of one set of images.

    Attributes:
        pooled: grid -> features of every group, ``(N, grid * grid * channels)``.
        last: as `gtl.critic.last_features` gives them.
        forward: seconds of the forward pass with all activations.
        pooling: grid -> seconds for every group.
        last_seconds: of `last`, its forward pass included.
    """

    pooled: Mapping[int, Sequence[torch.Tensor]]
    last: torch.Tensor
    forward: float
    pooling: Mapping[int, Sequence[float]]
    last_seconds: float

    def taken(self, variant: Variant) -> tuple[torch.Tensor, float]:
        """What a critic looks at, and the seconds that it costs."""
        if variant.taps == POOLED:
            return self.last, self.last_seconds
        groups = len(self.pooled[variant.grid])
        first = {ALL: 0, THIRD: groups - groups // 3, LAST: groups - 1}[variant.taps]
        seconds = self.forward + sum(self.pooling[variant.grid][first:])
        return torch.cat(list(self.pooled[variant.grid][first:]), dim=1), seconds


@torch.no_grad()
def extract(network: ConvNet, images: ImageSet, compute: Compute) -> Features:
    """All features that any critic here looks at."""
    place(network, compute)
    network.eval()
    forward, groups = 0.0, len(network.widths)
    pooling = {grid: [0.0] * groups for grid in GRIDS}
    rows: dict[int, list[list[torch.Tensor]]] = {grid: [[] for _ in range(groups)] for grid in GRIDS}
    for pixels in torch.split(images.to(compute.device).images, compute.eval_batch):
        began = time.perf_counter()
        with compute.context():
            found = list(network.activations(to_input(pixels, compute.memory_format)).values())
        forward += time.perf_counter() - began
        for grid in GRIDS:
            for group, activation in enumerate(found):
                began = time.perf_counter()
                rows[grid][group].append(F.adaptive_avg_pool2d(activation, grid).flatten(1).float())
                pooling[grid][group] += time.perf_counter() - began
    began = time.perf_counter()
    last = last_features(network, images, compute)
    last_seconds = time.perf_counter() - began
    pooled = {grid: [torch.cat(parts) for parts in groups_] for grid, groups_ in rows.items()}
    return Features(pooled, last, forward, pooling, last_seconds)


def judge(gene: Gene, task: CriticTask, compute: Compute) -> dict[str, tuple[float, float]]:
    """What every critic says about a gene on one task, and the seconds that each would have taken alone."""
    fit, score = (extract(gene.network, images, compute) for images in (task.fit, task.score))
    labels, truth = (images.labels.to(compute.device) for images in (task.fit, task.score))
    found = {}
    for name, variant in VARIANTS.items():
        fit_features, seconds = fit.taken(variant)
        score_features, more = score.taken(variant)
        began = time.perf_counter()
        value = variant.head(fit_features, labels, score_features, truth)
        seconds += time.perf_counter() - began + (more if variant.scores else 0.0)
        found[name] = (value, seconds)
    return found


def ridge(strength: float) -> Head:
    """As the default critic does it."""
    return partial(ridge_accuracy, ridge=strength)


def leave_one_out(
    fit: torch.Tensor, labels: torch.Tensor, score: torch.Tensor, truth: torch.Tensor, *, strength: float, both: bool
) -> float:
    """Leave-one-out ridge on the fit images, or on `both` sets."""
    if not both:
        return leave_one_out_accuracy(fit, labels, strength)
    return leave_one_out_accuracy(torch.cat([fit, score]), torch.cat([labels, truth]), strength)


def explained_variance(
    fit: torch.Tensor, labels: torch.Tensor, score: torch.Tensor, truth: torch.Tensor, *, strength: float
) -> float:
    """Of the score images' one-hot targets, by the default critic's regression: finer than whether each one is right."""
    targets = F.one_hot(truth, int(labels.max()) + 1).double()
    missed = targets - ridge_head(fit, labels, strength)(score)
    return 1.0 - float((missed**2).sum() / ((targets - targets.mean(0)) ** 2).sum())


def logistic(
    fit: torch.Tensor, labels: torch.Tensor, score: torch.Tensor, truth: torch.Tensor, *, strength: float
) -> float:
    """Accuracy of multinomial logistic regression, regularised as ridge is."""
    fit, score = standardised(fit, score)
    basis, sizes, _ = torch.linalg.svd(fit, full_matrices=False)
    kept = sizes > 1e-9 * sizes.max().clamp_min(1e-9)
    # all that the weights can be lies in the span of the images, which are far fewer than features
    score = score @ (fit.T @ (basis[:, kept] / sizes[kept]))
    fit = basis[:, kept] * sizes[kept]
    penalty = strength * float((fit**2).sum(1).mean())
    classes = int(labels.max()) + 1
    weights = torch.zeros(fit.shape[1], classes, dtype=fit.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=fit.dtype, requires_grad=True)
    descent = torch.optim.LBFGS([weights, bias], max_iter=NEWTON_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        descent.zero_grad()
        value = F.cross_entropy(fit @ weights + bias, labels, reduction="sum") + 0.5 * penalty * (weights**2).sum()
        torch.autograd.backward(value)
        return value

    descent.step(loss)
    predicted = (score @ weights.detach() + bias.detach()).argmax(1)
    return float((predicted == truth).double().mean())


def log_evidence(fit: torch.Tensor, labels: torch.Tensor, score: torch.Tensor, truth: torch.Tensor) -> float:
    """LogME (You et al. 2021): log evidence per image of Bayesian linear regression to one-hot targets, on both sets.

    The strengths of prior and noise are found for each class by the fixed point that maximises the evidence.
    """
    features, _ = standardised(torch.cat([fit, score]), score)
    targets = F.one_hot(torch.cat([labels, truth])).double()
    targets = targets - targets.mean(0)
    count = len(features)
    sizes, basis = torch.linalg.eigh(features @ features.T)
    sizes, known = sizes.clamp_min(0.0)[:, None], (basis.T @ targets) ** 2  # (N, classes)
    alpha = beta = torch.ones(targets.shape[1], dtype=targets.dtype, device=targets.device)
    for _ in range(EVIDENCE_STEPS):
        ratio = alpha / beta
        effective = (sizes / (sizes + ratio)).sum(0)
        weights = (sizes * known / (sizes + ratio) ** 2).sum(0).clamp_min(1e-12)
        missed = (known / (1 + sizes / ratio) ** 2).sum(0).clamp_min(1e-12)
        alpha, beta = effective / weights, (count - effective) / missed
        alpha = alpha.clamp(1e-9, 1e9)
    ratio = alpha / beta
    weights = (sizes * known / (sizes + ratio) ** 2).sum(0)
    missed = (known / (1 + sizes / ratio) ** 2).sum(0)
    evidence = count * (alpha.log() + beta.log() - math.log(2 * math.pi)) - (alpha + beta * sizes).log().sum(0)
    return float((0.5 * (evidence - beta * missed - alpha * weights) / count).mean())


def neighbours(
    fit: torch.Tensor,
    labels: torch.Tensor,
    score: torch.Tensor,
    truth: torch.Tensor,
    *,
    classify: Callable[..., torch.Tensor],
    scaled: bool = False,
) -> float:
    """Accuracy of nearest class mean or k nearest neighbours, on features as they are or standardised (`scaled`).

    Features of several layers differ in scale.
    """
    if scaled:
        fit, score = standardised(fit, score)
    return float((classify(fit, labels, score) == truth).double().mean())


def standardised(fit: torch.Tensor, score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with the fit set's mean and standard deviation, in double precision."""
    mean, std = moments(fit)
    return ((fit - mean) / std).double(), ((score - mean) / std).double()


DEFAULT = "ridge"
OF_ALL = "leave-one-out ridge, fit and score images"
VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(ridge(0.1)),
    **{f"ridge, regulariser {strength:g}": Variant(ridge(strength)) for strength in (0.01, 1.0, 10.0)},
    **{f"ridge, {grid} x {grid}": Variant(ridge(0.1), grid=grid) for grid in (1, 4)},
    "ridge, 1 x 1, regulariser 1": Variant(ridge(1.0), grid=1),
    "ridge, last third of the groups": Variant(ridge(0.1), taps=THIRD),
    "ridge, last group": Variant(ridge(0.1), taps=LAST),
    "ridge, explained variance": Variant(partial(explained_variance, strength=0.1)),
    "leave-one-out ridge, fit images": Variant(partial(leave_one_out, strength=0.1, both=False), scores=False),
    OF_ALL: Variant(partial(leave_one_out, strength=0.1, both=True)),
    f"{OF_ALL}, 1 x 1": Variant(partial(leave_one_out, strength=0.1, both=True), grid=1),
    "log evidence (LogME)": Variant(log_evidence),
    "log evidence (LogME), 1 x 1": Variant(log_evidence, grid=1),
    "log evidence (LogME), last features": Variant(log_evidence, taps=POOLED),
    "logistic, regulariser 0.001": Variant(partial(logistic, strength=0.001)),
    "logistic, regulariser 0.01": Variant(partial(logistic, strength=0.01)),
    "nearest class mean, last features": Variant(partial(neighbours, classify=nearest_class_mean), taps=POOLED),
    "nearest class mean, all groups": Variant(partial(neighbours, classify=nearest_class_mean, scaled=True)),
    "k nearest neighbours, last features": Variant(partial(neighbours, classify=k_nearest), taps=POOLED),
    "k nearest neighbours, all groups": Variant(partial(neighbours, classify=k_nearest, scaled=True)),
}
