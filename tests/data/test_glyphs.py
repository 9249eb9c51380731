"""The embedded source: classes that are distinct and no digits, images that are the same every time and varied."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import SMALL_GLYPHS

from gtl.data import DataRequest, Splits, load
from gtl.data.glyph_classes import (
    DIGITS,
    LETTER_LIKE_A_DIGIT,
    LIKE_A_DIGIT,
    RANGES,
    candidates,
    likeness,
    look,
    reference_faces,
)
from gtl.data.glyphs import MIN_FACES, characters, class_name, faces, render
from gtl.errors import DataError


def test_hundreds_of_classes_none_of_them_a_number() -> None:
    assert 240 <= len(characters()) <= 320
    assert len(set(characters())) == len(characters())
    assert not [c for c in characters() if unicodedata.category(c).startswith("N") or unicodedata.numeric(c, None)]
    assert class_name("Ж") == "U+0416 Ж"


def test_every_class_has_enough_faces() -> None:
    assert all(sum(ord(c) in face.codes for face in faces()) >= MIN_FACES for c in characters())


def test_classes_look_different_from_each_other_and_from_digits() -> None:
    # A little above the limits of selection: another font renderer may draw a little differently.
    slack = 0.03
    loosest = max(limit for _, _, limit in RANGES)
    for face in reference_faces():
        able = [c for c in characters() if ord(c) in face.codes]
        upright = np.stack([look(face, c) for c in able])
        for angle in (0, -12, 12):
            alike = np.stack([look(face, c, angle) for c in able]) @ upright.T
            np.fill_diagonal(alike, 0)
            a, b = np.unravel_index(alike.argmax(), alike.shape)
            assert alike.max() < loosest + slack, (face.path.name, able[a], able[b], float(alike.max()))
    for c in characters():
        limit = LETTER_LIKE_A_DIGIT if c.isascii() and c.isalpha() else LIKE_A_DIGIT
        assert max(likeness(c, digit) for digit in DIGITS) < limit + slack, c


@pytest.mark.parametrize(("a", "b"), ["A\u0391", "A\u0410", "o\u03bf", "oO", "O0", "l1", "lI", "sS", "θ0"])
def test_homoglyphs_are_alike_by_the_measure_and_not_both_classes(a: str, b: str) -> None:
    assert likeness(a, b) > 0.85
    assert not {a, b} <= set(characters())


def test_candidates_hold_no_digits_or_superscripts() -> None:
    text = "".join(c for c, _ in candidates())
    assert len(set(text)) == len(text) > 1000
    assert not set("0123456789²³¹ªº½") & set(text)


def test_images_of_a_class_do_not_depend_on_the_others_or_on_what_came_before() -> None:
    first = render("Ж", 5, 32)
    render("Q", 3, 32)
    assert np.array_equal(first, render("Ж", 5, 32))
    assert not np.array_equal(first, render("Q", 5, 32))


def test_sets(glyphs: Splits) -> None:
    assert {role: images.n_classes for role, images in glyphs.sets.items()} == {"train": 8, "val": 4, "novel": 4}
    for role, images in glyphs.sets.items():
        assert images.images.shape == (6 * images.n_classes, 32, 32, 3)
        assert images.class_names == glyphs.class_lists[role]
        assert set(images.class_counts.values()) == {6}
        assert not images.mirror and images.source == "glyphs"


def test_images_are_varied_and_have_contrast(glyphs: Splits) -> None:
    images = glyphs["train"].images
    assert len({image.numpy().tobytes() for image in images}) == len(images)
    assert images.float().flatten(1, 2).std(1).amax(1).min() > 10  # no flat picture
    assert images.float().mean((1, 2)).std(0).min() > 20  # no common colour


def test_the_same_twice_and_without_the_cache(glyphs: Splits, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "another"))
    again = load(SMALL_GLYPHS, ("train",))
    assert torch.equal(again["train"].images, glyphs["train"].images)
    assert again.class_lists == glyphs.class_lists and again.digest == glyphs.digest
    assert set(again.sets) == {"train"}


def test_another_seed_splits_otherwise_and_fewer_train_classes_leave_the_novel_ones(glyphs: Splits) -> None:
    assert load(replace(SMALL_GLYPHS, split_seed=1), ("val",)).class_lists != glyphs.class_lists
    fewer = load(replace(SMALL_GLYPHS, train_classes=2), ("val",)).class_lists
    assert fewer["novel"] == glyphs.class_lists["novel"] and len(fewer["train"]) == 2


def test_default_split_is_60_20_20() -> None:
    lists = load(replace(SMALL_GLYPHS, train_classes=None, val_classes=1, novel_classes=1), ("val",)).class_lists
    assert len(lists["train"]) == len(characters()) - 2
    by_share = load(DataRequest("glyphs", images_per_class=1), ("val",))
    total, lists = len(characters()), by_share.class_lists
    assert (len(lists["val"]), len(lists["novel"])) == (round(total / 5), round(total / 5))
    assert sum(map(len, lists.values())) == total


@pytest.mark.parametrize("size", [28, 84])
def test_other_sizes(size: int) -> None:
    assert render("Q", 2, size).shape == (2, size, size, 3)


def test_errors_name_numbers() -> None:
    with pytest.raises(DataError, match=r"train_classes=999, val_classes=4, .* 1007 classes, there are \d+; ask for"):
        load(replace(SMALL_GLYPHS, train_classes=999), ("train",))
    with pytest.raises(DataError, match="0 of the bundled fonts draw U\\+4E00"):
        render("一", 1, 32)
