"""Shared by the data tests: a cache of their own, one small rendered set of glyphs, the real CIFAR-FS if there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pictures import SMALL_GLYPHS

from gtl.data import Splits, load


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GTL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def glyphs(own_cache: Path) -> Splits:
    """Eight train, four val and four novel glyph classes of six images."""
    return load(SMALL_GLYPHS, ("train", "val", "novel"))


@pytest.fixture(scope="session")
def cifar_root() -> str:
    """The folder of the real CIFAR-FS npz files."""
    root = os.environ.get("GTL_CIFAR_FS")
    if not root:
        pytest.skip("GTL_CIFAR_FS is not set")
    return root
