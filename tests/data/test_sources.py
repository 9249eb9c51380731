"""The registry, requests and the class split."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from gtl.data import DataRequest, Splits, describe, load, parse_source
from gtl.data.request import check_names, split_classes
from gtl.errors import DataError, NovelClassesError


def test_every_source_is_described() -> None:
    infos = describe()
    assert [info.name for info in infos] == ["glyphs", "digits", "cifar_fs", "mini_imagenet", "folder", "npz"]
    assert all(info.summary and "\n" not in info.summary for info in infos)
    assert [info.name for info in infos if not info.needs_root] == ["glyphs", "digits"]


def test_parse_source() -> None:
    assert parse_source("digits") == DataRequest("digits")
    assert parse_source("folder:a:b") == DataRequest("folder", root="a:b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mnist", "no data source 'mnist'; known are glyphs, digits, cifar_fs, mini_imagenet, folder, npz"),
        ("", "no data source ''"),
        ("digits:/tmp", "digits takes no path, 'digits:/tmp' was given; write just 'digits'"),
        ("folder:", "folder: '' is no path"),
    ],
)
def test_parse_source_refuses(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_source(text)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (DataRequest("nothing"), "no data source 'nothing'"),
        (DataRequest("glyphs", root="here"), "glyphs takes no path, 'here' was given"),
        (DataRequest("folder"), "folder needs a path: give folder:PATH, where PATH is a folder with one folder"),
        (
            DataRequest("npz", root="not-there.npz"),
            "not-there.npz does not exist; give npz:PATH, where PATH is an .npz",
        ),
        (DataRequest("cifar_fs", root="not-there"), "not-there does not exist; .* train.npz, .*cifar-100-python"),
        (DataRequest("npz", root="x" * 5000), "File name too long"),
    ],
)
def test_load_refuses(request_: DataRequest, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(request_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 16}, r"image_size is 16, it must lie in 28\.\.84"),
        ({"image_size": 224}, "image_size is 224"),
        ({"images_per_class": 0}, "images_per_class is 0, it must be at least 1"),
        ({"train_classes": -1}, "train_classes is -1, it must be at least 0"),
        ({"skip_bad": -1}, "skip_bad is -1"),
        ({"images_per_class": 3, "min_per_class": 5}, "images_per_class 3 is below min_per_class 5"),
        ({"root": "a\0b"}, "is no path"),
    ],
)
def test_requests_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataRequest("glyphs", **options)


@pytest.mark.parametrize("roles", [(), ("train", "train"), ("test",)])
def test_roles_are_checked(roles: tuple) -> None:
    with pytest.raises(DataError, match=r"roles .* must be some of \('train', 'val', 'novel'\)"):
        load(DataRequest("digits"), roles)


NAMES = tuple(f"class {i}" for i in range(20))


def test_split_is_disjoint_complete_and_independent_of_order() -> None:
    lists = split_classes(NAMES, DataRequest("npz"))
    assert {role: len(names) for role, names in lists.items()} == {"train": 12, "val": 4, "novel": 4}
    assert sorted(sum(lists.values(), ())) == sorted(NAMES)
    backwards = split_classes(NAMES[::-1], DataRequest("npz"))
    assert {role: set(names) for role, names in backwards.items()} == {role: set(n) for role, n in lists.items()}
    assert split_classes(NAMES, DataRequest("npz", split_seed=1)) != lists


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train_classes": 10, "val_classes": 2, "novel_classes": 3}, (10, 2, 3)),
        ({"train_classes": 10}, (10, 5, 5)),
        ({"novel_classes": 0}, (15, 5, 0)),
        ({"train_classes": 0, "val_classes": 0}, (0, 0, 20)),
    ],
)
def test_counts(counts: dict, expected: tuple[int, int, int]) -> None:
    lists = split_classes(NAMES, DataRequest("npz", **counts))
    assert tuple(len(lists[role]) for role in ("train", "val", "novel")) == expected


@pytest.mark.parametrize(
    ("total", "counts", "message"),
    [
        (20, {"train_classes": 15, "val_classes": 6}, "train_classes=15, val_classes=6 are 21 classes, there are 20"),
        (20, {"train_classes": 19}, "20 classes with train_classes=19 leave 1 for val, novel; each needs at least one"),
        (2, {}, "2 classes leave 2 for train, val, novel"),
    ],
)
def test_counts_that_do_not_fit(total: int, counts: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_classes(NAMES[:total], DataRequest("npz", **counts))


@pytest.mark.parametrize(
    ("names", "message"), [(["a", "a"], "'a' appears twice"), (["a\nb"], "not print"), ([""], "empty")]
)
def test_class_names(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_names(names, "here")


def test_overlapping_lists_are_refused_and_digests_differ(glyphs: Splits) -> None:
    with pytest.raises(DataError, match="class 'a' is in train and in novel"):
        Splits("x", {}, {"train": ("a", "b"), "novel": ("a",)})
    assert replace(glyphs, source="other").digest != glyphs.digest
    assert len(glyphs.digest) == 64


def test_novel_classes_are_refused_where_one_selects(glyphs: Splits) -> None:
    from gtl.data import refuse_novel

    refuse_novel(glyphs["val"], "the critic")
    with pytest.raises(NovelClassesError, match="the critic was given the novel classes of glyphs"):
        refuse_novel(glyphs["novel"], "the critic")


def test_importing_the_package_is_light() -> None:
    code = "import sys, gtl.data; print({'torchvision', 'sklearn', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
