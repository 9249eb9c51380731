"""Estimates with intervals: a mean is never printed without its n and its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

LEVEL = 0.95


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
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Estimate of the mean of ``values[i] - others[i]``: both measured on the same seed or episode i."""
    return estimate([a - b for a, b in zip(values, others, strict=True)])
