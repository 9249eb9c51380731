"""How well one number per gene ranks another: Spearman's correlation with an interval over genes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from gtl.seeds import rng

RESAMPLES = 2000
LEVEL = 0.95
Table = npt.NDArray[np.float64]  # (pairs, genes): a critic's value, or the truth that belongs to it


@dataclass(frozen=True)
class Interval:
    """A value on all genes, and the ends of its 95 % interval over genes (percentiles of a bootstrap)."""

    value: float
    low: float
    high: float


def spearman(values: Table, truth: Table) -> Table:
    """Rank correlation along the last axis; 0 where one side does not vary, which ranks nothing."""
    one, other = rankdata(values, axis=-1), rankdata(truth, axis=-1)
    one, other = one - one.mean(-1, keepdims=True), other - other.mean(-1, keepdims=True)
    norm = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    return np.asarray((one * other).sum(-1) / np.where(norm > 0, norm, 1.0))


@dataclass(frozen=True)
class Resampled:
    """Mean correlation over the pairs: on all genes, and on every resample of them (the same for all critics)."""

    whole: float
    resamples: Table

    @classmethod
    def of(cls, values: Table, truth: Table, seed: int = 0) -> Resampled:
        """Of a critic; both of shape (pairs, genes)."""
        genes = values.shape[-1]
        drawn = rng(seed, "bootstrap", genes).integers(0, genes, (RESAMPLES, genes))
        whole = float(spearman(values, truth).mean())
        return cls(whole, spearman(values[:, drawn], truth[:, drawn]).mean(0))

    @property
    def interval(self) -> Interval:
        """Of the correlation."""
        return _interval(self.whole, self.resamples)

    def over(self, other: Resampled) -> Interval:
        """Of the difference to another critic on the same genes."""
        return _interval(self.whole - other.whole, self.resamples - other.resamples)


def _interval(value: float, resamples: Table) -> Interval:
    low, high = np.quantile(resamples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(value, low, high)
