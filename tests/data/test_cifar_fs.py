"""CIFAR-FS from npz and from torchvision's folder: published classes, only the wanted roles, clear refusals."""

from __future__ import annotations

import hashlib
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gtl.data import DataRequest, Splits, load
from gtl.data.cifar_fs import FILES, class_lists, import_cifar100
from gtl.errors import DataError


def get(root: Path | str, *roles, **options) -> Splits:
    return load(DataRequest("cifar_fs", root=str(root), **options), roles or ("train", "val"))


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def npz_root(tmp_path: Path) -> Path:
    """The three files with two images a class; class names stand in another order than the published one."""
    for seed, (role, file) in enumerate(FILES.items()):
        names = class_lists()[role][::-1]
        labels = np.repeat(np.arange(len(names)), 2)
        np.savez(tmp_path / file, images=noise(len(labels), seed), labels=labels, class_names=np.array(names))
    return tmp_path


@pytest.fixture
def torchvision_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder in torchvision's form, whose checksums stand in for the published ones."""
    cifar100 = import_cifar100()
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = sorted(name for names in class_lists().values() for name in names)
    sums = {}
    for seed, (half, each) in enumerate({"train": 2, "test": 1}.items()):
        rows = noise(100 * each, seed).transpose(0, 3, 1, 2).reshape(100 * each, -1)
        content = pickle.dumps({"data": rows, "fine_labels": list(range(100)) * each})
        (folder / half).write_bytes(content)
        sums[half] = hashlib.md5(content).hexdigest()
    content = pickle.dumps({"fine_label_names": names})
    (folder / "meta").write_bytes(content)
    monkeypatch.setattr(cifar100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(cifar100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(cifar100, "meta", {**cifar100.meta, "md5": hashlib.md5(content).hexdigest()})
    return tmp_path


def test_class_lists_are_a_partition_of_100() -> None:
    assert {role: len(names) for role, names in class_lists().items()} == {"train": 64, "val": 16, "novel": 20}
    assert len(set(sum(class_lists().values(), ()))) == 100


def test_npz_is_put_in_the_published_order(npz_root: Path) -> None:
    splits = get(npz_root, "val")
    assert splits["val"].class_names == class_lists()["val"] and splits["val"].mirror
    assert splits["val"].images.shape == (32, 32, 32, 3)
    # The last class of the file is the first published one.
    assert torch.equal(splits["val"].images[:2], torch.from_numpy(noise(32, 1)[-2:]))
    assert splits.class_lists == class_lists()


def test_only_the_wanted_files_are_opened(npz_root: Path) -> None:
    (npz_root / "test.npz").write_bytes(b"unreadable")
    assert set(get(npz_root).sets) == {"train", "val"}
    with pytest.raises(DataError, match=r"test.npz cannot be read"):
        get(npz_root, "novel")
    (npz_root / "test.npz").unlink()
    with pytest.raises(DataError, match=r"test.npz is missing, it holds the novel classes"):
        get(npz_root, "novel")


def test_npz_options(npz_root: Path) -> None:
    val = get(npz_root, "val", image_size=28, images_per_class=1)["val"]
    assert val.images.shape == (16, 28, 28, 3)
    with pytest.raises(DataError, match=r"class 'beaver' has 2, .*at least 3"):
        get(npz_root, "val", min_per_class=3)
    with pytest.raises(DataError, match="comes with its own class split; remove train_classes=10"):
        get(npz_root, train_classes=10)


def test_npz_of_other_classes(npz_root: Path) -> None:
    (npz_root / "val.npz").write_bytes((npz_root / "test.npz").read_bytes())
    with pytest.raises(
        DataError, match=r"not hold the published val classes .* not expected \['baby'.* missing \['beaver'"
    ):
        get(npz_root)


def test_npz_of_another_size(npz_root: Path) -> None:
    names = class_lists()["val"]
    labels = np.arange(len(names))
    np.savez(
        npz_root / "val.npz", images=np.zeros((16, 40, 40, 3), np.uint8), labels=labels, class_names=np.array(names)
    )
    with pytest.raises(DataError, match="40 pixels wide, CIFAR's are 32"):
        get(npz_root, "val")


def test_many_duplicates_are_worth_a_warning(npz_root: Path) -> None:
    with np.load(npz_root / "train.npz") as file:
        images = file["images"]
    names = class_lists()["val"]
    np.savez(npz_root / "val.npz", images=images[:32], labels=np.repeat(np.arange(16), 2), class_names=np.array(names))
    with pytest.warns(UserWarning, match="cifar_fs: 32 images stand in two roles, for example train/"):
        get(npz_root)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"has neither train.npz nor cifar-100-python; give a folder with .*download=True"
    ):
        get(tmp_path)
    with pytest.raises(DataError, match="cifar_fs needs a path: give cifar_fs:PATH"):
        load(DataRequest("cifar_fs", download=True))


@pytest.mark.parametrize("where", [".", "cifar-100-python"])
def test_torchvision_folder_joins_both_halves(torchvision_root: Path, where: str) -> None:
    splits = get(torchvision_root / where, "train", "val", "novel")
    assert {role: images.images.shape[0] for role, images in splits.sets.items()} == {
        "train": 192,
        "val": 48,
        "novel": 60,
    }
    label = sorted(name for names in class_lists().values() for name in names).index("apple")
    expected = [noise(200, 0)[label], noise(200, 0)[100 + label], noise(100, 1)[label]]
    assert splits["train"].class_names[0] == "apple"
    assert torch.equal(splits["train"].images[:3], torch.from_numpy(np.stack(expected)))


def test_download_does_nothing_where_all_is_there(torchvision_root: Path) -> None:
    assert get(torchvision_root, "val", download=True)["val"].n_classes == 16


def test_torchvision_folder_that_was_changed_is_not_unpickled(torchvision_root: Path) -> None:
    with (torchvision_root / "cifar-100-python" / "train").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"cannot provide CIFAR-100 .*corrupted.*fetch it again with download=True"):
        get(torchvision_root)


def test_failing_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_cifar100(), "url", "http://127.0.0.1:9/cifar.tar.gz")  # nobody listens there
    with pytest.raises(DataError, match=r"cannot provide CIFAR-100 .*check the network and the disk"):
        get(tmp_path / "new", download=True)


@pytest.mark.parametrize("failure", ["RuntimeError('operator torchvision::nms does not exist')", "ImportError('no')"])
def test_torchvision_that_does_not_fit_torch(
    torchvision_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "path" / "torchvision").mkdir(parents=True)
    (tmp_path / "path" / "torchvision" / "__init__.py").write_text(f"raise {failure}")
    monkeypatch.syspath_prepend(tmp_path / "path")
    with pytest.raises(DataError, match=r"torchvision \S+ cannot be imported beside torch \d.*matching pair"):
        get(torchvision_root)


@pytest.mark.data
def test_the_real_thing(cifar_root: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its known duplicates are no news
        splits = get(cifar_root, "train", "val", "novel")
    for images in splits.sets.values():
        assert set(images.class_counts.values()) == {600}
    everything = torch.cat([images.images for images in splits.sets.values()]).float()
    # Over all 60,000 images; the constants that everybody uses are those of the 50,000 training images.
    assert everything.mean((0, 1, 2)).div(255).tolist() == pytest.approx([0.5071, 0.4865, 0.4409], abs=2e-3)
