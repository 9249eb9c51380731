"""Numpy-side helpers that the sources share: resize, draw a number per class, find duplicates, make an ImageSet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from gtl.data.images import ImageSet, Role, Splits
from gtl.data.request import LARGEST, SMALLEST, DataRequest, check_roles
from gtl.errors import DataError
from gtl.seeds import rng


def resize(images: np.ndarray, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    """Square uint8 images ``(N, H, H, 3)`` at another size, with anti-aliasing; the same array if nothing changes."""
    if images.shape[1] == size:
        return images
    out = np.empty((len(images), size, size, 3), np.uint8)
    for row, image in enumerate(images):
        out[row] = np.asarray(Image.fromarray(image).resize((size, size), resample))
    return out


def draw(count: int, name: str, request: DataRequest) -> np.ndarray:
    """Which of a class's `count` images to use: all, or a seeded draw of `images_per_class`; sorted positions.

    The draw depends on the class's name and not on its neighbours, so it stays when other classes come or go.
    """
    if request.images_per_class is None or count <= request.images_per_class:
        return np.arange(count)
    picked = rng(request.split_seed, "images", name).permutation(count)[: request.images_per_class]
    return np.sort(picked)


def check_counts(counts: Mapping[str, int], request: DataRequest) -> None:
    """Raise DataError if classes have fewer than `min_per_class` images; names them and their counts."""
    few = [f"{name!r} has {count}" for name, count in counts.items() if count < request.min_per_class]
    if few:
        more = f" and {len(few) - 10} more classes" if len(few) > 10 else ""
        raise DataError(
            f"{request.source}: too few images: class {', '.join(few[:10])}{more}; at least {request.min_per_class} "
            "are needed: add images, remove the class or lower min_per_class"
        )


def from_rows(
    images: np.ndarray,
    rows_of: Callable[[str], np.ndarray],
    class_lists: Mapping[Role, tuple[str, ...]],
    roles: Sequence[Role],
    request: DataRequest,
    *,
    mirror: bool,
) -> Splits:
    """Splits out of one array that holds every class.

    Args:
        images: uint8 ``(N, H, H, 3)``.
        rows_of: class name -> positions of its images.
        class_lists: class names of every role.
        roles: the roles to make sets of.
        mirror: the source's own answer on mirror images.
    """
    check_roles(roles, class_lists, request.source)
    sets: dict[Role, ImageSet] = {}
    for role in roles:
        per_class = {name: rows_of(name) for name in class_lists[role]}
        check_counts({name: len(rows) for name, rows in per_class.items()}, request)
        drawn = [rows[draw(len(rows), name, request)] for name, rows in per_class.items()]
        chosen = images[np.concatenate(drawn)]
        size = request.image_size or int(images.shape[1])
        if not SMALLEST <= size <= LARGEST:
            raise DataError(
                f"{request.source}: images are {size} pixels wide; set image_size to {SMALLEST}..{LARGEST} to resize"
            )
        labels = np.repeat(np.arange(len(drawn)), [len(rows) for rows in drawn])
        sets[role] = image_set(resize(chosen, size), labels, class_lists[role], role, request, mirror=mirror)
    return Splits(source=request.source, sets=sets, class_lists=class_lists)


def image_set(
    images: np.ndarray, labels: np.ndarray, names: tuple[str, ...], role: Role, request: DataRequest, *, mirror: bool
) -> ImageSet:
    """One role's ImageSet from uint8 ``(N, S, S, 3)`` and sorted integer labels ``(N,)``."""
    return ImageSet(
        images=torch.from_numpy(np.ascontiguousarray(images)),
        labels=torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)),
        class_names=names,
        role=role,
        source=request.source,
        mirror=request.mirror_or(mirror),
    )


def pixel_hash(image: np.ndarray) -> bytes:
    """sha256 over one image's shape and pixels."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


def cross_role_duplicates(sets: Mapping[Role, ImageSet]) -> list[tuple[str, str]]:
    """Pixel-identical images that stand in more than one role, as pairs ``("role/class #n", "role/class #n")``."""
    first: dict[bytes, tuple[Role, str]] = {}
    pairs: list[tuple[str, str]] = []
    for role, images in sets.items():
        labels = images.labels.tolist()
        for row, image in enumerate(images.images.cpu().numpy()):
            where = f"{role}/{images.class_names[labels[row]]} #{row}"
            seen_role, seen_where = first.setdefault(pixel_hash(image), (role, where))
            if seen_role != role:
                pairs.append((seen_where, where))
    return pairs
