"""Comparisons of starts in words: what the intervals allow to say, of one pair or of several together, and gate R."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gtl.stats import LEVEL, DataInterval, Estimate, holm, p_value, paired_difference, quantile

SCRATCH, PRETRAINED, ONE_SHOT = "scratch", "pretrained", "one-shot"
PRETRAINED_BY_SGD = "pretrained by SGD"
WHOLE = (PRETRAINED, PRETRAINED_BY_SGD, "linear probe")  # starts that inherit everything
COMPACT = "compact"  # what the names of descendants begin with that are the thin network of the gene's widths
GATE = 0.9


@dataclass(frozen=True)
class Comparison:
    """A start against another one.

    Attributes:
        other: what it is compared with.
        gain: paired difference over the seeds, in shares: of the sampler.
        data: the same over seeds and classes; None where accuracies were not recorded class by class.
    """

    other: str
    gain: Estimate
    data: DataInterval | None = None


def verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """What may be said of each comparison, so that all that is said holds jointly at 5 %.

    A difference is said to be shown only if Holm's corrected p-value over all the comparisons is below 0.05; the ends of
    intervals are those of single 95 % intervals. Sentences about *these classes* are one family, those about *others like
    them* another, as they are different claims; a difference shown for others is always shown for these.
    """
    here = holm([p_value(comparison.gain) for comparison in comparisons])
    elsewhere = iter(holm([comparison.data.p_value for comparison in comparisons if comparison.data is not None]))
    return [
        _verdict(comparison, corrected, 1.0 if comparison.data is None else next(elsewhere), len(comparisons))
        for comparison, corrected in zip(comparisons, here, strict=True)
    ]


def _verdict(comparison: Comparison, here: float, elsewhere: float, count: int) -> str:
    gain, data, other = comparison.gain, comparison.data, comparison.other
    n, after = f"n = {gain.n} seeds", f" after correction for {count} comparisons"
    if not is_shown(here):
        text = (
            f"no difference from {other} shown{after if _leaves_zero_out(gain) else ''} ({_signed_range(gain)} points"
        )
        if data is None:
            return f"{text}, {n})"
        return f"{text} on these classes, {n}; {_signed_range(data)} on others like them, {data.classes} classes)"
    way = "better" if gain.mean > 0 else "worse"
    text = f"{way} than {other} by {_size_range(gain)} points on these classes ({n})"
    if data is None:
        return text
    if is_shown(elsewhere):
        return f"{text}, by {_size_range(data)} on others like them ({data.classes} classes)"
    after = after if _leaves_zero_out(data) else ""
    return f"{text}; not shown for others like them{after} ({_signed_range(data)}, {data.classes} classes)"


def is_shown(corrected: float) -> bool:
    """Whether a corrected p-value is below 5 %."""
    return corrected < 1 - LEVEL


@dataclass(frozen=True)
class Gate:
    """Gate R (arXiv 2606.29119): the share of the best start's gain that a gene cut in one shot has already.

    Attributes:
        one_shot, best: the best one-shot start, and the best start at all but full transfer; they may be the same.
        ratio: R, gain of the first over gain of the second, both over scratch; None if no start gains anything.
        low, high: its 95 % interval over the seeds (Fieller); None where the gain of the best is too unsure to divide by.
        n: number of seeds.
    """

    one_shot: str
    best: str
    ratio: float | None
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.ratio is None:
            return f"gate R: not defined, as no start that inherits a part gains over {SCRATCH} (n = {self.n} seeds)"
        if self.one_shot == self.best:
            return (
                f"gate R = 1.00 (n = {self.n} seeds): no start that inherits a part gains more than {self.one_shot}; evolution "
                "is unlikely to pay"
            )
        within = "interval unbounded" if self.low is None else f"{self.low:.2f} to {self.high:.2f}"
        text = f"gate R = {self.ratio:.2f} ({within}, n = {self.n} seeds): {self.one_shot} has {100 * self.ratio:.0f} % of the"
        pays = "is unlikely to pay" if self.ratio >= GATE else "may pay"
        return f"{text} gain of {self.best}, the best start that inherits a part; evolution {pays} (gate: {100 * GATE:.0f} %)"


def gate(accuracies: Mapping[str, Sequence[float]]) -> Gate | None:
    """Gate R of a comparison, from the accuracies of its starts, paired by seed.

    R = (gain of the best one-shot gene) / (gain of the best start that does not inherit everything), gains being means
    over scratch. From 0.9 on, paying for evolution is unlikely to pay. Both are chosen by their means here, which the interval
    does not know of.

    Args:
        accuracies: start -> accuracy of each seed, in shares. One-shot starts have names that begin with "one-shot".
            Compact descendants, whose names begin with "compact", are other networks, and count for nothing here.

    Returns:
        None if scratch, a one-shot start or any other start that does not inherit everything is missing.

    Raises:
        ValueError: fewer than two seeds, or starts with different numbers of them.
    """
    if SCRATCH not in accuracies:
        return None
    rivals = [name for name in accuracies if name not in (SCRATCH, *WHOLE) and not name.startswith(COMPACT)]
    cuts = [name for name in rivals if name.startswith(ONE_SHOT)]
    if not cuts or len(cuts) == len(rivals):
        return None
    gains = {name: paired_difference(accuracies[name], accuracies[SCRATCH]) for name in rivals}
    one_shot, best = (max(names, key=lambda name: gains[name].mean) for names in (cuts, rivals))
    n = gains[best].n
    if gains[best].mean <= 0:
        return Gate(one_shot, best, None, None, None, n)
    if one_shot == best:
        return Gate(one_shot, best, 1.0, 1.0, 1.0, n)
    differences = [np.subtract(accuracies[name], accuracies[SCRATCH]).tolist() for name in (one_shot, best)]
    low, high = fieller(*differences) or (None, None)
    return Gate(one_shot, best, gains[one_shot].mean / gains[best].mean, low, high, n)


def fieller(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of mean(numerators) / mean(denominators), paired (Fieller, J. R. Stat. Soc. B 16, 1954).

    It holds every ratio r for which the mean of ``numerators - r * denominators`` is not told from zero.

    Returns:
        None if it has no end: the denominators' mean is not told from zero itself.
    """
    count = len(numerators)
    covariance = np.cov(numerators, denominators, ddof=1) / count * quantile(count - 1) ** 2
    over, under = float(np.mean(numerators)), float(np.mean(denominators))
    square, product, rest = under**2 - covariance[1, 1], over * under - covariance[0, 1], over**2 - covariance[0, 0]
    if square <= 0:
        return None
    root = math.sqrt(max(0.0, product**2 - square * rest))
    return float((product - root) / square), float((product + root) / square)


def signed(value: float) -> str:
    """A share as points with their sign: ``+14.2``."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: never "-0.0"


def _signed_range(interval: Estimate | DataInterval) -> str:
    return f"{signed(interval.low)} to {signed(interval.high)}"


def _size_range(interval: Estimate | DataInterval) -> str:
    low, high = sorted(abs(100 * end) for end in (interval.low, interval.high))
    return f"{low:.1f} to {high:.1f}"


def _leaves_zero_out(interval: Estimate | DataInterval) -> bool:
    return interval.low > 0 or interval.high < 0
