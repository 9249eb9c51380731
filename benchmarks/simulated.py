"""Simulated classifiers with known truth: what intervals and tests are tried on (`interval_coverage.py`, F41)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MEAN = 0.5


@dataclass(frozen=True)
class Spread:
    """What accuracies vary with, as standard deviations in shares (0.05: five points).

    Attributes:
        classes: some classes are easier, for every start.
        seeds: so are some draws of images, for every start.
        start_classes: what a start is worth differs from class to class.
        start_seeds: and from seed to seed: its new weights, the order of its batches.
        cells: what is left, of a start, a class and a seed.
        images: test images a class and seed; the share of them that is right is a binomial draw.
        skewed: effects of classes are drawn from a shifted exponential distribution instead of a normal one.
    """

    classes: float = 0.0
    seeds: float = 0.0
    start_classes: float = 0.0
    start_seeds: float = 0.0
    cells: float = 0.0
    images: int = 100
    skewed: bool = False


def accuracies(
    draw: np.random.Generator,
    repetitions: int,
    seeds: int,
    classes: int,
    spread: Spread,
    gains: tuple[float, ...] = (0.0,),
) -> Floats:
    """Measured accuracies: shape (repetitions, starts, seeds, classes), every repetition with classes of its own.

    The true mean of start i is ``MEAN + gains[i]`` over all classes and seeds that there could be. (Probabilities are cut
    at 0 and 1; spreads of up to 0.12 hardly get there.)

    Args:
        gains: of each start, in shares.
    """
    shape = (repetitions, len(gains), seeds, classes)

    def effect(size: float, *varies: bool, skewed: bool = False) -> Floats:
        own = tuple(length if varying else 1 for length, varying in zip(shape, (True, *varies), strict=True))
        return size * (draw.exponential(1.0, own) - 1.0 if skewed else draw.standard_normal(own))

    truth = (
        MEAN
        + np.reshape(gains, (1, -1, 1, 1))
        + effect(spread.classes, False, False, True, skewed=spread.skewed)
        + effect(spread.seeds, False, True, False)
        + effect(spread.start_classes, True, False, True, skewed=spread.skewed)
        + effect(spread.start_seeds, True, True, False)
        + effect(spread.cells, True, True, True)
    )
    return draw.binomial(spread.images, np.clip(truth, 0.0, 1.0)) / spread.images


def episodes(
    draw: np.random.Generator, count: int, *, classes: int, images: int, n_way: int, n_query: int, sd: float
) -> Floats:
    """Accuracies of `count` few-shot episodes over one set of images, drawn anew for every call: shape (count,).

    A classifier gets each image of the set either right or wrong; every episode draws classes and images of the same set
    again. The true mean over sets is MEAN.

    Args:
        classes, images: of the set, and of each of its classes.
        n_way, n_query: classes of an episode, and test images of each.
        sd: how far classes differ.
    """
    chances = np.clip(MEAN + sd * draw.standard_normal((classes, 1)), 0.0, 1.0)
    right = draw.random((classes, images)) < chances
    chosen = np.argsort(draw.random((count, classes)), axis=1)[:, :n_way, None]
    return right[chosen, draw.integers(0, images, (count, n_way, n_query))].mean(axis=(1, 2))
