"""Trained tensors that are kept in the cache folder, under a hash of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from gtl import storage
from gtl.data.cache import cache_dir
from gtl.errors import StorageError
from gtl.life import World
from gtl.surgery import GeneTensors
from gtl.training import Compute
from gtl.versions import code_digest, versions


def kept(key: Mapping[str, Any], make: Callable[[], GeneTensors], compute: Compute) -> GeneTensors:
    """What `make` gives, from the cache folder if it was made before.

    Args:
        key: JSON: all that the result depends on, besides gtl's code and `compute`.
        compute: where it is made.
    """
    path = _path(key, compute)
    found = _read(path)
    return _write(path, make()) if found is None else found


def kept_tensors(world: World, key: Mapping[str, Any], make: Callable[[], GeneTensors]) -> GeneTensors:
    """As `kept`, of what depends on a world.

    Args:
        world: its network, train images, seed and compute are part of what the result depends on.
        key: JSON: whatever else it depends on.
    """
    return kept(_key(world, key), make, world.compute)


def find_tensors(world: World, key: Mapping[str, Any]) -> GeneTensors | None:
    """What was kept for this world and key; None if nothing was, or it cannot be read."""
    return _read(_path(_key(world, key), world.compute))


def keep_tensors(world: World, key: Mapping[str, Any], tensors: GeneTensors) -> GeneTensors:
    """Keep tensors for `find_tensors`, and give them back."""
    return _write(_path(_key(world, key), world.compute), tensors)


def _read(path: Path) -> GeneTensors | None:
    with suppress(FileNotFoundError, OSError, SafetensorError):
        return load_file(path)
    return None


def _write(path: Path, tensors: GeneTensors) -> GeneTensors:
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with suppress(StorageError, OSError):  # the cache is a convenience: without it all is made again
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.publish(path, save(tensors), overwrite=True)
    return tensors


def _key(world: World, key: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **key,
        "host": world.host.widths,
        "arch": world.host.arch,
        "classes": world.class_digest,
        "pixels": world.train.digest,
        "seed": world.config.seed,
    }


def _path(key: Mapping[str, Any], compute: Compute) -> Path:
    whole = {**key, "versions": versions(compute), "code": code_digest()}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return cache_dir() / f"tensors-{digest[:40]}.safetensors"
