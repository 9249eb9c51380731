"""ImageSet: what it refuses and how it is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gtl.data import ImageSet, Splits
from gtl.errors import DataError


def make(images: torch.Tensor, labels: torch.Tensor, names: int = 2) -> ImageSet:
    return ImageSet(images, labels, tuple(f"c{i}" for i in range(names)), "train", "made", mirror=True)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 4, 4, 3), torch.tensor([0, 1]), "uint8"),
        (torch.zeros(2, 4, 5, 3, dtype=torch.uint8), torch.tensor([0, 1]), r"\(N, H, H, 3\)"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0]), r"int64 \(2,\)"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([1, 0]), "sorted"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 0]), r"cover 0\.\.1"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 2]), r"cover 0\.\.1"),
    ],
)
def test_refused(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(images, labels)


def test_classes_are_taken_in_the_order_asked_for(glyphs: Splits) -> None:
    train = glyphs["train"]
    two = train.take_classes([5, 1])
    assert two.class_names == (train.class_names[5], train.class_names[1])
    assert torch.equal(two.images[:6], train.images[train.indices_of(5)])
    assert two.labels.tolist() == [0] * 6 + [1] * 6


def test_draws_are_disjoint_and_name_a_class_that_is_too_small(glyphs: Splits) -> None:
    train = glyphs["train"]
    fit, score = train.draw_per_class(np.random.default_rng(0), 2, 3)
    assert set(fit.class_counts.values()) == {2} and set(score.class_counts.values()) == {3}
    drawn = {image.numpy().tobytes() for part in (fit, score) for image in part.images}
    assert len(drawn) == 5 * train.n_classes
    with pytest.raises(DataError, match="has 6 images, 7 are needed"):
        train.draw_per_class(np.random.default_rng(0), 4, 3)
