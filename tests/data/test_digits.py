"""scikit-learn's digits: real, novel, bright on black."""

from __future__ import annotations

import pytest

from gtl.data import DataRequest, load
from gtl.errors import DataError


def test_all_images_novel_and_not_mirrored() -> None:
    splits = load(DataRequest("digits"), ("novel",))
    digits = splits["novel"]
    assert digits.images.shape == (1797, 32, 32, 3) and not digits.mirror
    assert digits.class_names == tuple(f"digit {i}" for i in range(10))
    assert digits.class_counts["digit 0"] == 178 and sum(digits.class_counts.values()) == 1797
    assert splits.class_lists == {"train": (), "val": (), "novel": digits.class_names}
    corners = digits.images[:, [0, 0, -1, -1], [0, -1, 0, -1]].float()
    assert corners.mean() < 10 and digits.images.amax() > 240  # black ground, bright strokes


def test_sizes_and_draws() -> None:
    request = DataRequest("digits", image_size=28, images_per_class=5)
    digits = load(request, ("novel",))["novel"]
    assert digits.images.shape == (50, 28, 28, 3)
    assert (load(request, ("novel",))["novel"].images == digits.images).all()


def test_no_train_classes_unless_asked_for() -> None:
    with pytest.raises(DataError, match=r"no train classes \(0 train, 0 val, 10 novel\).*train_classes"):
        load(DataRequest("digits"))
    splits = load(DataRequest("digits", train_classes=5, val_classes=2, images_per_class=3))
    assert {role: len(names) for role, names in splits.class_lists.items()} == {"train": 5, "val": 2, "novel": 3}
    with pytest.raises(DataError, match="novel classes were not loaded"):
        splits["novel"]
