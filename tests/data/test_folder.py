"""The user's folders: both forms, class counts, links, duplicates."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import pixels, write_classes, write_roles
from PIL import Image

from gtl.data import DataRequest, Splits, load
from gtl.errors import DataError

NAMES = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "classes", NAMES)


@pytest.fixture
def roles(tmp_path: Path) -> Path:
    return write_roles(tmp_path / "roles")


def get(root: Path, *roles, source: str = "folder", **options) -> Splits:
    return load(DataRequest(source, root=str(root), **options), roles or ("train", "val"))


def test_class_folders_are_split_by_seed(classes: Path) -> None:
    splits = get(classes, "train", "val", "novel")
    assert {role: images.n_classes for role, images in splits.sets.items()} == {"train": 3, "val": 1, "novel": 1}
    assert sorted(sum(splits.class_lists.values(), ())) == sorted(NAMES)
    train = splits["train"]
    assert train.images.shape == (9, 32, 32, 3) and train.mirror and train.role == "train"
    assert torch.equal(train.images, get(classes)["train"].images)
    assert not get(classes, mirror=False)["train"].mirror
    name = train.class_names[0]
    expected = Image.fromarray(pixels(1000 * NAMES.index(name))).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(train.images[0].numpy(), np.asarray(expected))


def test_order_on_disk_does_not_matter(classes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in reversed(NAMES):
        (other / name).mkdir(parents=True)
        for file in sorted((classes / name).iterdir(), reverse=True):
            shutil.copy(file, other / name)
    assert torch.equal(get(other)["train"].images, get(classes)["train"].images)
    assert get(other).digest == get(classes).digest


def test_role_folders(roles: Path) -> None:
    splits = get(roles, "train", "val", "novel", image_size=28)
    assert splits.class_lists == {role: (f"{word} 0", f"{word} 1") for role, word in
                                  {"train": "train", "val": "val", "novel": "test"}.items()}  # fmt: skip
    assert splits["novel"].images.shape == (6, 28, 28, 3) and splits["novel"].role == "novel"
    (roles / "test").rename(roles / "novel")
    assert get(roles, "novel").class_lists["novel"] == ("test 0", "test 1")


def test_novel_folder_alone(tmp_path: Path) -> None:
    root = write_roles(tmp_path, ("novel",))
    assert get(root, "novel")["novel"].n_classes == 2
    with pytest.raises(DataError, match=r"no train classes \(0 train, 0 val, 2 novel\)"):
        get(root)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_classes(tmp_path, ("train", "bus", "tram"))
    assert set(sum(get(tmp_path).class_lists.values(), ())) == {"train", "bus", "tram"}


def test_roles_that_are_not_wanted_are_not_decoded(roles: Path) -> None:
    for file in (roles / "test" / "test 0").iterdir():
        file.write_text("not an image")
    assert set(get(roles).sets) == {"train", "val"}
    with pytest.raises(DataError, match="3 images"):
        get(roles, "novel")


def test_shorter_side_is_resized_and_the_centre_cut(tmp_path: Path) -> None:
    root = write_classes(tmp_path, ("a", "b", "c"), count=1)
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 200
    for name in "abc":
        Image.fromarray(wide).save(root / name / "0.png")
        wide += 1
    images = get(root, "train")["train"].images
    assert images[:, :, 2:-2].amin() >= 200  # the white middle, but for its blurred edge


def test_mini_imagenet(roles: Path, classes: Path) -> None:
    splits = get(roles, source="mini_imagenet")
    assert splits["train"].images.shape[1:] == (84, 84, 3) and splits.source == "mini_imagenet"
    assert get(roles, source="mini_imagenet", image_size=32)["train"].image_size == 32
    with pytest.raises(
        DataError, match=r"must hold the folders train, val and test, .* it has ant, bee, cat, dog, eel"
    ):
        get(classes, source="mini_imagenet")


def test_images_per_class_is_a_seeded_draw(tmp_path: Path) -> None:
    root = write_classes(tmp_path, ("a", "b", "c"), count=6)
    two = get(root, "train", images_per_class=2)["train"]
    assert set(two.class_counts.values()) == {2}
    everything = {image.numpy().tobytes() for image in get(root, "train")["train"].images}
    assert {image.numpy().tobytes() for image in two.images} < everything
    assert torch.equal(two.images, get(root, "train", images_per_class=2)["train"].images)


def test_hidden_files_are_overlooked(classes: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "._0.png"):
        (classes / "ant" / name).write_text("x")
    (classes / ".git").mkdir()
    (classes / "README.txt").write_text("about")
    assert sum(map(len, get(classes).class_lists.values())) == 5


# What is refused.


def test_no_class_folders(tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()
    with pytest.raises(
        DataError, match="has no class folders; it must be a folder with one folder of images per class"
    ):
        get(tmp_path)
    with pytest.raises(DataError, match=r"picture.png is a file; give a folder"):
        get(tmp_path / "picture.png")


def test_empty_role_folder(roles: Path) -> None:
    shutil.rmtree(roles / "val")
    (roles / "val").mkdir()
    with pytest.raises(DataError, match="val has no class folders, so there are no val classes"):
        get(roles)


def test_too_few_images_names_class_and_counts(classes: Path) -> None:
    (classes / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match="too few images: class 'cat' has 2; at least 3 are needed: add images"):
        get(classes, min_per_class=3)
    for file in (classes / "cat").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="class 'cat' has 0; at least 1"):
        get(classes)


def test_too_few_after_bad_ones_are_skipped(classes: Path) -> None:
    name = get(classes).class_lists["train"][0]
    (classes / name / "0.png").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="1 images .* are left out"),
        pytest.raises(DataError, match=f"'{name}' has 2;"),
    ):
        get(classes, min_per_class=3, skip_bad=1)


def test_too_few_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 classes leave 2 for train, val, novel; each needs at least one"):
        get(write_classes(tmp_path, ("a", "b")))


def test_role_folders_refuse_counts_and_strangers(roles: Path) -> None:
    with pytest.raises(DataError, match="comes with its own class split; remove val_classes=3"):
        get(roles, val_classes=3)
    (roles / "annotations").mkdir()
    with pytest.raises(DataError, match=r"folder 'annotations' beside .*; remove it"):
        get(roles)
    (roles / "annotations").rename(roles / "novel")
    with pytest.raises(DataError, match="both novel and test, which mean the same; keep one"):
        get(roles)


def test_class_in_two_roles(roles: Path) -> None:
    (roles / "val" / "val 0").rename(roles / "val" / "train 0")
    with pytest.raises(DataError, match="class 'train 0' is in val and in another role's folder"):
        get(roles)


def test_same_pixels_in_two_splits(roles: Path) -> None:
    # Another file of the same pixels: the bytes differ, the decoded images do not.
    with Image.open(roles / "train" / "train 1" / "2.png") as image:
        image.save(roles / "val" / "val 0" / "copy.bmp")
    with pytest.raises(DataError, match=r"train/train 1/2.png and val/val 0/copy.bmp are the same image .*remove one"):
        get(roles)
    assert get(roles, "train")["train"].n_classes == 2  # nothing to compare with


def test_copied_file_in_a_split_that_is_not_loaded(roles: Path) -> None:
    shutil.copy(roles / "train" / "train 1" / "2.png", roles / "test" / "test 0" / "again.png")
    with pytest.raises(DataError, match=r"train/train 1/2.png and test/test 0/again.png are the same image"):
        get(roles)


def test_the_same_image_twice_in_one_split_is_no_leak(roles: Path) -> None:
    shutil.copy(roles / "train" / "train 1" / "2.png", roles / "train" / "train 0" / "again.png")
    assert get(roles)["train"].class_counts == {"train 0": 4, "train 1": 3}


@pytest.mark.parametrize("what", ["file", "class"])
def test_links_out_of_the_root_are_refused(classes: Path, tmp_path: Path, what: str) -> None:
    outside = write_classes(tmp_path / "outside", ("secret",))
    link, target = (classes / "ant" / "9.png", outside / "secret" / "0.png") if what == "file" else (
        classes / "fox", outside / "secret")  # fmt: skip
    link.symlink_to(target)
    with pytest.raises(DataError, match=r"is a link out of .*not followed; copy the images"):
        get(classes)


def test_links_inside_the_root_are_fine_and_loops_end(classes: Path, tmp_path: Path) -> None:
    name = get(classes).class_lists["train"][0]
    (classes / name / "9.png").symlink_to(classes / name / "0.png")
    linked = tmp_path / "linked"
    linked.symlink_to(classes)
    assert get(linked)["train"].class_counts[name] == 4
    (classes / name / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError, match=r"loop.png: cannot be decoded: .*symbolic links"):
        get(classes)
