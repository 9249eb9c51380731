"""For all tests: no user's cache is touched, and torch keeps to one thread (pico networks gain nothing from more)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GTL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread for torch, whatever the machine has; in processes that tests start, too, and those as urgent as others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves them as soon as anything else computes
        yield
    torch.set_num_threads(before)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` tests that start Ray take turns: their faults are timed, and a second Ray beside is a fault."""
    for item in items:
        if item.get_closest_marker("ray") and config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group("ray"))
