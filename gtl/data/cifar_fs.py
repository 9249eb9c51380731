"""`cifar_fs`: CIFAR-100 in its few-shot split (Bertinetto et al. 2019): 64 train, 16 validation, 20 novel classes.

Read from a folder with ``train.npz``, ``val.npz``, ``test.npz`` (test = novel; see `gtl.data.npz` for their arrays), or
from torchvision's CIFAR-100 folder, of which both the train and the test images are used: 600 a class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from gtl.data.arrays import check_counts, draw, image_set, resize
from gtl.data.images import ImageSet, Role, Splits
from gtl.data.npz import read, warn_of_duplicates
from gtl.data.request import DataRequest
from gtl.errors import DataError

FILES: dict[Role, str] = {"train": "train.npz", "val": "val.npz", "novel": "test.npz"}
FOLDER = "cifar-100-python"
WANTED = f"a folder with train.npz, val.npz and test.npz, or with torchvision's {FOLDER} (download=True fetches it)"
# CIFAR-100 itself repeats images: 15 of its 26 groups of duplicates lie across the roles of this split.
KNOWN_DUPLICATES = 15


@cache
def class_lists() -> dict[Role, tuple[str, ...]]:
    """The published class lists by role."""
    lists = json.loads(resources.files("gtl.data").joinpath("cifar_fs.json").read_text(encoding="ascii"))
    return {role: tuple(lists[role]) for role in FILES}


def load(request: DataRequest, roles: Sequence[Role]) -> Splits:
    """The wanted roles; files of other roles are not opened.

    Raises:
        DataError: nothing usable at the root, files of other classes, torchvision that does not fit torch.
    """
    request.refuse_class_counts()
    root = _root(request)
    if any((root / file).exists() for file in FILES.values()):
        sets = {role: _from_npz(root, role, request) for role in roles}
    else:
        sets = _from_torchvision(root, roles, request)
    splits = Splits(source=request.source, sets=sets, class_lists=class_lists())
    warn_of_duplicates(splits, KNOWN_DUPLICATES)
    return splits


def _root(request: DataRequest) -> Path:
    if request.download and request.root is not None:
        return Path(request.root).expanduser()  # torchvision makes it
    root = request.path(WANTED)
    return root.parent if root.name == FOLDER else root


def _from_npz(root: Path, role: Role, request: DataRequest) -> ImageSet:
    path = root / FILES[role]
    if not path.is_file():
        raise DataError(f"{request.source}: {path} is missing, it holds the {role} classes; give {WANTED}")
    images, labels, names = read(path, request.source)
    published = class_lists()[role]
    if set(names) != set(published):
        extra, missing = sorted(set(names) - set(published)), sorted(set(published) - set(names))
        raise DataError(
            f"{request.source}: {path} does not hold the published {role} classes of CIFAR-FS: "
            f"not expected {extra[:5]}, missing {missing[:5]}; for other classes use the source npz"
        )
    rows = {name: np.flatnonzero(labels == label) for label, name in enumerate(names)}
    return _role_set(images, [rows[name] for name in published], role, request)


def _role_set(images: np.ndarray, rows: list[np.ndarray], role: Role, request: DataRequest) -> ImageSet:
    """One role out of images ``(N, 32, 32, 3)``; rows[i] are the positions of the i-th published class."""
    names = class_lists()[role]
    if images.shape[1] != 32:
        raise DataError(
            f"{request.source}: images are {images.shape[1]} pixels wide, CIFAR's are 32; use the source npz"
        )
    drawn = [row[draw(len(row), name, request)] for name, row in zip(names, rows, strict=True)]
    check_counts({name: len(row) for name, row in zip(names, drawn, strict=True)}, request)
    chosen = resize(images[np.concatenate(drawn)], request.image_size or 32)
    labels = np.repeat(np.arange(len(names)), [len(row) for row in drawn])
    return image_set(chosen, labels, names, role, request, mirror=True)


def _from_torchvision(root: Path, roles: Sequence[Role], request: DataRequest) -> dict[Role, ImageSet]:
    if not request.download and not (root / FOLDER).is_dir():
        raise DataError(f"{request.source}: {root} has neither train.npz nor {FOLDER}; give {WANTED}")
    cifar100 = import_cifar100()
    try:
        # torchvision compares the files' published checksums before it unpickles them, so nothing foreign is run.
        halves = [cifar100(str(root), train=train, download=request.download) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise DataError(
            f"{request.source}: torchvision cannot provide CIFAR-100 in {root} ({error}); "
            + ("check the network and the disk" if request.download else "fetch it again with download=True")
        ) from error
    images = np.concatenate([half.data for half in halves])
    labels = np.concatenate([np.asarray(half.targets) for half in halves])
    label_of = halves[0].class_to_idx
    sets: dict[Role, ImageSet] = {}
    for role in roles:
        unknown = [name for name in class_lists()[role] if name not in label_of]
        if unknown:
            raise DataError(f"{request.source}: {root / FOLDER} does not know the class {unknown[0]!r}; fetch it again")
        rows = [np.flatnonzero(labels == label_of[name]) for name in class_lists()[role]]
        sets[role] = _role_set(images, rows, role, request)
    return sets


def import_cifar100() -> Any:
    """torchvision's CIFAR100 class.

    Raises:
        DataError: torchvision is not installed, or was built for another torch.
    """
    try:
        from torchvision.datasets import CIFAR100
    # A torchvision built for another torch fails in many ways: operators that do not exist (RuntimeError), symbols that
    # are not found (OSError, ImportError), attributes that were renamed.
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise DataError(
            f"cifar_fs: torchvision {_version('torchvision')} cannot be imported beside torch {_version('torch')} "
            f"({error}); install a matching pair (`pip install -U torch torchvision`) or use npz files"
        ) from error
    return CIFAR100


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
