"""Linear CKA: how alike two sets of features of the same images are, whatever their widths. Batch by batch, unbiased.

Kornblith et al. 2019, arXiv 1905.00414. Its plain estimate rises with features and falls with images; the unbiased
estimate of HSIC (Song et al. 2012, JMLR 13, eq. 5) averaged over batches does neither (Nguyen et al. 2021,
arXiv 2010.15327, eq. 3), and needs the memory of one batch.
"""

from __future__ import annotations

import math

import torch

LEAST_BATCH = 4  # images that the unbiased estimate needs
CHUNK = 1 << 15  # features that are centred at once: bounds the memory of double precision
_DEAD = 1e-12  # of a Gram matrix's mean square: an HSIC below is rounding, and the features do not vary


def gram(features: torch.Tensor) -> torch.Tensor:
    """Gram matrix float64 ``(n, n)`` of centred features ``(n, ...)``; channels and places count alike.

    Centring changes no HSIC, and keeps the sums of `unbiased_hsic` small.
    """
    flat = features.flatten(1)
    found = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    for part in torch.split(flat, CHUNK, dim=1):
        centred = part.double() - part.double().mean(0)
        found += centred @ centred.T
    return found


def unbiased_hsic(one: torch.Tensor, other: torch.Tensor) -> float:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion from two Gram matrices ``(n, n)``, n at least 4."""
    count = len(one)
    one, other = (matrix - torch.diag(matrix.diagonal()) for matrix in (one, other))
    together = (one * other).sum() + one.sum() * other.sum() / ((count - 1) * (count - 2))
    rows = one.sum(0) @ other.sum(0)
    return float(together - 2 * rows / (count - 2)) / (count * (count - 3))


class LinearCKA:
    """Linear CKA of two sets of features, from batches of equal size."""

    def __init__(self) -> None:
        self._between = self._one = self._other = 0.0
        self._scale_one = self._scale_other = 0.0

    def add(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Gram matrices of a batch, as `gram` gives them."""
        self._between += unbiased_hsic(one, other)
        self._one += unbiased_hsic(one, one)
        self._other += unbiased_hsic(other, other)
        self._scale_one += float(one.square().mean())
        self._scale_other += float(other.square().mean())

    @property
    def value(self) -> float | None:
        """At most 1, which is alike up to rotation and scale; about 0 for unrelated features, perhaps a little below.

        None: one of the two does not vary from image to image.
        """
        if self._one <= _DEAD * self._scale_one or self._other <= _DEAD * self._scale_other:
            return None
        return self._between / math.sqrt(self._one * self._other)
