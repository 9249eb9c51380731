"""The one door to images: `load` a request from the registry of sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gtl.data import cifar_fs, digits, folder, glyphs, npz
from gtl.data.images import ROLES, Role, Splits
from gtl.data.request import DataRequest
from gtl.errors import DataError


class Source(NamedTuple):
    """A registered source: the function that loads it and what a list of sources says."""

    load: Callable[[DataRequest, Sequence[Role]], Splits]
    summary: str
    needs_root: bool


class SourceInfo(NamedTuple):
    """One line of the list of sources."""

    name: str
    summary: str
    needs_root: bool


SOURCES: dict[str, Source] = {
    "glyphs": Source(
        glyphs.load,
        f"{len(glyphs.characters())} characters drawn from bundled fonts; the default, nothing to fetch",
        False,
    ),
    "digits": Source(digits.load, "scikit-learn's 1,797 handwritten digits; 10 novel classes, nothing to fetch", False),
    "cifar_fs": Source(cifar_fs.load, f"CIFAR-100, few-shot split 64/16/20: {cifar_fs.WANTED}", True),
    "mini_imagenet": Source(folder.load_mini_imagenet, "miniImageNet: a folder with train, val and test folders", True),
    "folder": Source(folder.load, f"your own images: {folder.WANTED}", True),
    "npz": Source(npz.load, f"your own arrays: {npz.WANTED}", True),
}


def load(request: DataRequest, roles: Sequence[Role] = ("train", "val")) -> Splits:
    """The images of the wanted roles, and the class lists of all.

    Args:
        request: source, where it lies, and how much of it.
        roles: which sets to load; others are not read, or not kept where one file holds all.

    Raises:
        DataError: an unknown source or role, or data that cannot be used; the message names the value and the remedy.
    """
    source = _source(request.source)
    if not roles or len(set(roles)) != len(roles) or not set(roles) <= set(ROLES):
        raise DataError(f"{request.source}: roles {tuple(roles)} must be some of {ROLES}, each once")
    if request.root is not None and not source.needs_root:
        raise DataError(f"{request.source} takes no path, {request.root!r} was given; write just {request.source!r}")
    return source.load(request, roles)


def describe() -> list[SourceInfo]:
    """All sources, for `gtl data list`."""
    return [SourceInfo(name, source.summary, source.needs_root) for name, source in SOURCES.items()]


def parse_source(text: str) -> DataRequest:
    """``NAME`` or ``NAME:PATH`` as a request with default options.

    >>> parse_source("cifar_fs:/data/cifar").root
    '/data/cifar'

    Raises:
        DataError: an unknown name (the known ones are listed), or a path where the source takes none.
    """
    name, colon, root = text.partition(":")
    source = _source(name)
    if colon and not source.needs_root:
        raise DataError(f"{name} takes no path, {text!r} was given; write just {name!r}")
    return DataRequest(source=name, root=root if colon else None)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise DataError(
            f"there is no data source {name!r}; known are {', '.join(SOURCES)}; a path follows a colon: folder:PATH"
        )
    return SOURCES[name]
