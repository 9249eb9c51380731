"""`folder`: the user's own images, one folder a class; `mini_imagenet`: in train, val and test folders, 84 x 84.

Two forms: ``root/<class>/<image>`` with a seeded class split, or ``root/{train,val,novel}/<class>/<image>`` (``test``
is another word for novel). Every file in a class folder must be an image, hidden files and the two that Windows leaves
behind excepted. Images of roles that were not asked for are not decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtl.data.arrays import check_counts, draw, image_set
from gtl.data.decode import Decoded, decode_all, report_bad
from gtl.data.duplicates import refuse_equal_files, refuse_equal_pixels
from gtl.data.images import ROLES, ImageSet, Role, Splits
from gtl.data.request import DataRequest, check_names, check_roles, split_classes
from gtl.errors import DataError

DEFAULT_SIZE = 32
MINI_IMAGENET_SIZE = 84
ROLE_FOLDERS: dict[str, Role] = {"train": "train", "val": "val", "novel": "novel", "test": "novel"}
WANTED = "a folder with one folder of images per class, or with train, val and test folders of such"
_LEFT_BEHIND = frozenset({"thumbs.db", "desktop.ini"})


class Listing(NamedTuple):
    """Where a source's images lie: the class lists and each class's files, sorted by name."""

    class_lists: dict[Role, tuple[str, ...]]
    files: dict[str, list[Path]]


def load(request: DataRequest, roles: Sequence[Role]) -> Splits:
    """Images of the wanted roles.

    Raises:
        DataError: no class folders, a class with too few images, images that cannot be used beyond `skip_bad`, links
            that lead out of the root, the same image in two roles.
    """
    root = _folder(request)
    return _load(root, list_images(root, request), roles, request, DEFAULT_SIZE)


def load_mini_imagenet(request: DataRequest, roles: Sequence[Role]) -> Splits:
    """miniImageNet from train, val and test folders, 84 x 84 unless said otherwise; raises as `load`."""
    root = _folder(request)
    if role_folders(root, request) is None:
        raise DataError(
            f"{request.source}: {root} must hold the folders train, val and test, each with one folder of images per "
            f"class; it has {_some(entry.name for entry in _subfolders(root, root, request.source))}"
        )
    return _load(root, list_images(root, request), roles, request, MINI_IMAGENET_SIZE)


def list_images(root: Path, request: DataRequest) -> Listing:
    """All classes and files below `root`, without opening one.

    Raises:
        DataError: as `load`, as far as names and counts tell.
    """
    source = request.source
    by_role = role_folders(root, request)
    if by_role is None:
        classes = {entry.name: Path(entry.path) for entry in _subfolders(root, root, source)}
        if not classes:
            raise DataError(f"{source}: {root} has no class folders; it must be {WANTED}")
        files = {name: _files(root, path, source) for name, path in classes.items()}
        lists = split_classes(check_names(classes, f"{source}: {root}"), request)
    else:
        request.refuse_class_counts()
        lists = dict.fromkeys(ROLES, ())
        files = {}
        for role, folder in by_role.items():
            classes = {entry.name: Path(entry.path) for entry in _subfolders(folder, root, source)}
            if not classes:
                raise DataError(f"{source}: {folder} has no class folders, so there are no {role} classes; add some")
            lists[role] = check_names(classes, f"{source}: {folder}")
            if both := [name for name in classes if name in files]:
                raise DataError(
                    f"{source}: class {both[0]!r} is in {folder.name} and in another role's folder; splits must be "
                    "disjoint: keep it in one"
                )
            files |= {name: _files(root, path, source) for name, path in classes.items()}
    check_counts({name: len(paths) for name, paths in files.items()}, request)
    return Listing(lists, files)


def role_folders(root: Path, request: DataRequest) -> dict[Role, Path] | None:
    """The role folders of a root in that form, or None if its folders are classes.

    A class may be called train (CIFAR-100 has one): the form counts if a folder with a role's name holds folders, or if
    there are no others.

    Raises:
        DataError: other folders beside the roles' ones, or both novel and test.
    """
    entries = _subfolders(root, root, request.source)
    named = {entry.name: Path(entry.path) for entry in entries if entry.name in ROLE_FOLDERS}
    others = [entry.name for entry in entries if entry.name not in ROLE_FOLDERS]
    nested = any(_subfolders(folder, root, request.source) for folder in named.values())
    if not nested and ("train" not in named or others):
        return None
    if others:
        raise DataError(
            f"{request.source}: {root} has the folder {others[0]!r} beside {', '.join(named)}; remove it, or put every "
            "class folder below train, val or test"
        )
    if {"novel", "test"} <= named.keys():
        raise DataError(f"{request.source}: {root} has both novel and test, which mean the same; keep one")
    return {ROLE_FOLDERS[name]: folder for name, folder in named.items()}


def _load(root: Path, listing: Listing, roles: Sequence[Role], request: DataRequest, default_size: int) -> Splits:
    check_roles(roles, listing.class_lists, request.source)
    size = request.image_size or default_size
    decoded: dict[str, list[Decoded]] = {}
    role_of: dict[Path, Role] = {}  # of the decoded files
    others: list[Path] = []
    bad: list[tuple[Path, str]] = []
    for role, names in listing.class_lists.items():
        for name in names:
            paths = [listing.files[name][i] for i in draw(len(listing.files[name]), name, request)]
            if role not in roles:
                others += paths
                continue
            decoded[name], refused = decode_all(paths, size)
            role_of |= {image.path: role for image in decoded[name]}
            bad += refused
    report_bad(bad, root, request)
    check_counts({name: len(images) for name, images in decoded.items()}, request)
    images = [image for per_class in decoded.values() for image in per_class]
    refuse_equal_pixels(((image, role_of[image.path]) for image in images), root, request.source)
    refuse_equal_files(role_of, others, root, request.source)
    del images
    sets = {role: _stack(role, listing.class_lists[role], decoded, request, size) for role in roles}
    return Splits(source=request.source, sets=sets, class_lists=listing.class_lists)


def _stack(
    role: Role, names: tuple[str, ...], decoded: dict[str, list[Decoded]], request: DataRequest, size: int
) -> ImageSet:
    """One role's set; takes its images out of `decoded`, so that they are in memory once and not twice."""
    counts = [len(decoded[name]) for name in names]
    stacked = np.empty((sum(counts), size, size, 3), np.uint8)
    row = 0
    for name in names:
        for image in decoded.pop(name):
            stacked[row] = image.pixels
            row += 1
    return image_set(stacked, np.repeat(np.arange(len(names)), counts), names, role, request, mirror=True)


def _folder(request: DataRequest) -> Path:
    root = request.path(WANTED)
    if not root.is_dir():
        raise DataError(f"{request.source}: {root} is a file; give {WANTED}")
    return root


def _entries(folder: Path, root: Path, source: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, hidden things left out; links that lead out of `root` are refused."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{source}: {folder}: {error.strerror}; it must be readable") from error
    for entry in entries:
        if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(os.path.realpath(root)):
            raise DataError(
                f"{source}: {entry.path} is a link out of {root} (to {os.readlink(entry.path)}), which is not "
                "followed; copy the images or name their real folder"
            )
    return entries


def _subfolders(folder: Path, root: Path, source: str) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder, root, source) if entry.is_dir()]


def _files(root: Path, folder: Path, source: str) -> list[Path]:
    entries = _entries(folder, root, source)
    return [Path(entry.path) for entry in entries if entry.name.lower() not in _LEFT_BEHIND]


def _some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    names_list = list(names)
    return ", ".join(names_list[:5]) + (", ..." if len(names_list) > 5 else "") or "no folders"
