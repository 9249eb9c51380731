"""`digits`: scikit-learn's 1,797 real handwritten digits, a second data set for descendants.

Bright strokes on a black ground, as in the original (0..16 becomes 0..255), 8 x 8 pixels in a black margin of one pixel
(the strokes touch their frame), enlarged bilinearly, the same value in all three channels. About 180 images a class. All
ten classes are novel unless class counts are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gtl.data.arrays import from_rows, resize
from gtl.data.images import Role, Splits
from gtl.data.request import DataRequest, split_classes

DEFAULT_SIZE = 32
NAMES = tuple(f"digit {value}" for value in range(10))
SHARES: dict[Role, float] = {"train": 0.0, "val": 0.0, "novel": 1.0}


def load(request: DataRequest, roles: Sequence[Role]) -> Splits:
    """Handwritten digits of the wanted roles.

    Raises:
        DataError: class counts that do not fit, or a role without classes.
    """
    from sklearn.datasets import load_digits

    class_lists = split_classes(NAMES, request, SHARES)
    raw, labels = load_digits(return_X_y=True)
    grey = np.round(raw.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    grey = np.pad(grey, ((0, 0), (1, 1), (1, 1), (0, 0)))
    images = resize(np.repeat(grey, 3, axis=3), request.image_size or DEFAULT_SIZE)
    return from_rows(
        images, lambda name: np.flatnonzero(labels == NAMES.index(name)), class_lists, roles, request, mirror=False
    )
