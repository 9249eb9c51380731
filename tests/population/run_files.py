"""Small runs to commit, damage and read back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gtl.population.store import RunStore


class KilledError(BaseException):
    """Stands for signal 9: no handler of the store catches it, so nothing is cleaned."""


def tensors(seed: int, size: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv1.weight": torch.randn(size, 3, generator=generator),
        "conv1.bias": torch.randn(2, generator=generator),
    }


def rows(generation: int, count: int = 3) -> list[dict[str, Any]]:
    return [
        {"event": "birth", "generation": generation, "id": f"g{generation}-i{i}", "b": 1, "a": 2} for i in range(count)
    ]


def create(path: Path) -> RunStore:
    return RunStore.create(path, config_text="seed: 1\n", config_hash="c" * 64, versions={"torch": "2.15"})


def commit(store: RunStore, generation: int, size: int = 40) -> dict[str, Any]:
    """Commit a generation that shares one blob with the one before; returns its state."""
    shared, own = store.blobs.put(tensors(0)), store.blobs.put(tensors(100 + generation, size))
    state = {"population": {"z": 1, "a": 0.1 + generation}, "blobs": [own, shared], "float": 1 / 3}
    store.commit(generation, state, rows(generation))
    return state


def journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "lineage.jsonl").read_bytes().splitlines()]


def leftovers(path: Path) -> list[str]:
    return [str(found) for found in path.rglob("*.tmp.*")]


def lease(run: Path) -> Path:
    """Of the run's driver."""
    return run / "lock.json"


def foreign(**changes: Any) -> bytes:
    """A lease from another host."""
    record = {"pid": 17, "host": "node-3", "boot": "b", "token": "t" * 32, "every": 0.1, "beat": 4, **changes}
    return json.dumps(record).encode() + b"\n"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs with these options; the test is skipped where it cannot be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "gtl-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
