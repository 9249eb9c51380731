"""How many seeds a paired comparison needs, from the differences that a pilot found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy import special

from gtl.stats import LEVEL, Table, estimate, mean_squares, quantile

POWER = 0.8
MOST = 10**15  # seeds


def spread(differences: Sequence[float], assurance: float | None = None) -> float:
    """Standard deviation of paired differences: as found, or its upper confidence bound.

    A pilot of a few seeds knows the spread only roughly: of 5, the upper 80 % bound is 1.6 times what was found, of 10 1.3
    times. Plans made with the bound reach what they promise in 80 % of such pilots (Browne, Statistics in Medicine 14, 1995);
    plans made with what was found, in about half.

    Args:
        differences: of a pilot, one a seed.
        assurance: confidence of the bound, for example 0.8; None: as found.

    Raises:
        ValueError: fewer than two differences, or some that are not finite.
    """
    n = len(differences)
    found = estimate(differences).half_width / quantile(n - 1) * math.sqrt(n)
    if not math.isfinite(found):
        raise ValueError("differences that are not finite plan nothing; measure the pilot anew")
    if assurance is None:
        return found
    return found * math.sqrt((n - 1) / float(special.chdtri(n - 1, assurance)))


def seeds_needed(
    differences: Sequence[float],
    effect: float,
    power: float = POWER,
    *,
    level: float = LEVEL,
    assurance: float | None = None,
) -> int:
    """The least number of seeds whose paired t-test shows a true mean difference `effect` with probability `power`.

    Args:
        differences: of a pilot, one a seed.
        effect: difference to show, in the unit of the differences, not zero.
        level: 1 - size of the test. To plan for Holm's correction of m comparisons give ``1 - 0.05 / m``, which suffices.
        assurance: see `spread`.

    Raises:
        ValueError: as `spread`; no effect, a power outside (0, 1), or more seeds than `MOST`.
    """
    if not abs(effect) > 0:
        raise ValueError("no number of seeds shows a difference of 0; give the smallest difference that matters")
    if not 0 < power < 1:
        raise ValueError(f"a power of {power} cannot be planned for; give one between 0 and 1, such as {POWER}")
    found = spread(differences, assurance)
    apart = abs(effect) / found if found else math.inf
    return _least(lambda seeds: power_of(seeds, apart, level=level) >= power)


def seeds_for_half_width(
    differences: Sequence[float], half_width: float, *, level: float = LEVEL, assurance: float | None = None
) -> int:
    """The least number of seeds whose interval, at the spread planned with, reaches at most `half_width` to either side.

    Args:
        differences, level, assurance: see `seeds_needed`.
        half_width: in the unit of the differences.

    Raises:
        ValueError: as `spread`; a half-width that is not positive, or more seeds than `MOST`.
    """
    if not half_width > 0:
        raise ValueError(f"no number of seeds gives an interval of half-width {half_width}; give a positive one")
    ratio = spread(differences, assurance) / half_width
    return _least(lambda seeds: quantile(seeds - 1, level) * ratio <= math.sqrt(seeds))


def power_of(seeds: int, apart: float, *, level: float = LEVEL) -> float:
    """Probability that the paired t-test of so many seeds shows a difference (noncentral t, both tails).

    Args:
        seeds: at least 2.
        apart: true mean difference over the standard deviation of differences.
    """
    if math.isinf(apart):
        return 1.0
    reach, centre = quantile(seeds - 1, level), apart * math.sqrt(seeds)
    below, within = (float(special.nctdtr(seeds - 1, centre, end)) for end in (-reach, reach))
    # scipy has no number for tails that hold practically nothing: the lower one, or what is not in the upper one
    return 1.0 - (0.0 if math.isnan(within) else within) + (0.0 if math.isnan(below) else below)


def least_half_width(table: Table) -> float:
    """What `data_interval`'s half-width cannot go below, however many seeds: that many classes differ that much.

    Args:
        table: shape (seeds, classes), for example paired differences.

    Returns:
        In the table's unit; 0 if the classes were not found to differ beyond the residual.

    Raises:
        ValueError: as `gtl.stats.data_interval`.
    """
    _, of_classes, residual = mean_squares(table)
    seeds, classes = len(table), len(table[0])
    return quantile(classes - 1) * math.sqrt(max(0.0, of_classes - residual) / (seeds * classes))


def _least(holds: Callable[[int], bool]) -> int:
    """The least number from 2 on that a condition holds for; it holds for all above."""
    high = 2
    while not holds(high):
        high *= 2
        if high > MOST:
            raise ValueError(f"more than {MOST:.0e} seeds would be needed; plan for a larger difference")
    low = high // 2  # too few, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
