"""Estimates with intervals: a mean is never printed without its n and its 95 % interval.

Seeds draw images and new weights, so an interval over seeds says what other draws from the same classes would give: it is
of the *sampler*. What other classes and their images would give is wider: it is of the *data* (the distinction of
arXiv 2409.02850). `estimate` and `paired_difference` give the first, `data_interval` the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

LEVEL = 0.95
Table = Sequence[Sequence[float]] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over n values with its 95 % interval (Student's t over the values).

    Attributes:
        mean, low, high: the mean and the ends of the interval.
        n: number of values.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


@dataclass(frozen=True)
class DataInterval:
    """A mean over seeds and classes with the 95 % interval that new seeds *and* new classes would call for.

    Attributes:
        mean, low, high: the mean and the ends of the interval.
        seeds, classes: size of the table that it is made from.
        p_value: two-sided, of the mean against zero; below 0.05 exactly where the interval leaves zero out.
    """

    mean: float
    low: float
    high: float
    seeds: int
    classes: int
    p_value: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t-interval of `values`.

    Raises:
        ValueError: fewer than two values; one value has no interval.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least two values, got {n}")
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = quantile(n - 1) * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Estimate of the mean of ``values[i] - others[i]``: both measured on the same seed or episode i."""
    return estimate([a - b for a, b in zip(values, others, strict=True)])


def data_interval(table: Table) -> DataInterval:
    """Mean of a table of seeds x classes, with an interval for other seeds and other classes like these.

    Seeds and classes are crossed random effects: with mean squares A of seeds, B of classes and E of what neither explains,
    the mean's variance is estimated by (A + B - E) / (seeds * classes), which counts the residual once, with Satterthwaite's
    degrees of freedom (Biometrics Bulletin 1946), but at least those of the smaller side. Where A or B is below E, so that
    its side's own variance comes out negative, the other side alone counts, with its own degrees of freedom. The interval
    is never narrower than the sampler's, which it contains.

    Chosen by simulation (`benchmarks/interval_coverage.py`): with 5 or 10 seeds and 10 or 20 classes 94 to 97 % of such
    intervals hold the truth, whichever side varies most. With 3 seeds or 5 classes it is 94 to 99 %; where nothing varies but
    the test images, 97 to 99 %. Without the floor it would be as little as 78 % there, with the degrees of freedom of the
    smaller side up to 100 % elsewhere, and with the residual counted twice 99 %. Effects of classes that are as skewed as an
    exponential distribution bring it down: to 91 % with 10 classes, 89 % with 5.

    Args:
        table: shape (seeds, classes), for example accuracies or differences of accuracies, as shares.

    Raises:
        ValueError: fewer than two seeds or classes, rows of different lengths, or values that are not finite.
    """
    values = _as_table(table)
    seeds, classes = values.shape
    mean = float(values.mean())
    of_seeds, of_classes, residual = mean_squares(values)
    if of_seeds > residual and of_classes > residual:
        crossed = of_seeds + of_classes - residual
        spread = of_seeds**2 / (seeds - 1) + of_classes**2 / (classes - 1)
        freedom = crossed**2 / (spread + residual**2 / ((seeds - 1) * (classes - 1)))
        crossed_at = (crossed, max(freedom, min(seeds, classes) - 1.0))
    else:
        crossed_at = max((of_seeds, seeds - 1.0), (of_classes, classes - 1.0))
    half, p_value = 0.0, 0.0
    for square, freedom in (crossed_at, (of_seeds, seeds - 1.0)):
        error = math.sqrt(square / (seeds * classes))
        half = max(half, quantile(freedom) * error)
        p_value = max(p_value, _two_sided(mean, error, freedom))
    return DataInterval(mean, mean - half, mean + half, seeds, classes, p_value)


def paired_table(table: Table, others: Table) -> npt.NDArray[np.float64]:
    """``table - others``, both of shape (seeds, classes) and measured on the same images: what `data_interval` takes.

    Raises:
        ValueError: the shapes differ, or as `data_interval`.
    """
    first, second = _as_table(table), _as_table(others)
    if first.shape != second.shape:
        shapes = " and ".join(f"{seeds} seeds x {classes} classes" for seeds, classes in (first.shape, second.shape))
        raise ValueError(f"tables of {shapes} are not paired; measure both on the same images")
    return first - second


def mean_squares(table: Table) -> tuple[float, float, float]:
    """Mean squares of the two-way analysis of variance without repetition: of seeds, of classes, of the residual.

    Args:
        table: shape (seeds, classes).

    Raises:
        ValueError: as `data_interval`.
    """
    values = _as_table(table)
    seeds, classes = values.shape
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    rest = values - rows[:, None] - columns[None, :] + values.mean()
    return (
        classes * float(rows.var(ddof=1)),
        seeds * float(columns.var(ddof=1)),
        float((rest**2).sum()) / ((seeds - 1) * (classes - 1)),
    )


def p_value(estimate: Estimate) -> float:
    """Two-sided p-value of Student's t-test of the mean against zero; below 0.05 where the interval leaves zero out.

    An interval of no length, all values being equal, gives 0, or 1 for a mean of zero.
    """
    return _two_sided(estimate.mean, estimate.half_width / quantile(estimate.n - 1), estimate.n - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in the order given.

    Rejecting those below 0.05 rejects a true hypothesis among them with a probability of at most 5 %, however they depend
    on each other.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


def quantile(freedom: float, level: float = LEVEL) -> float:
    """Student's t that a two-sided interval of that level reaches to, in standard errors."""
    return float(special.stdtrit(freedom, 0.5 + level / 2))


def _two_sided(mean: float, error: float, freedom: float) -> float:
    if error == 0:
        return float(mean == 0)
    return 2 * float(special.stdtr(freedom, -abs(mean) / error))


def _as_table(table: Table) -> npt.NDArray[np.float64]:
    values = np.asarray(table, dtype=np.float64)  # rows of different lengths: ValueError
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"an interval needs at least two seeds and two classes, got a table of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a table of accuracies holds values that are not finite; measure them anew")
    return values
