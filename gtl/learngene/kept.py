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
from gtl.versions import code_digest, versions


def kept_tensors(world: World, key: Mapping[str, Any], make: Callable[[], GeneTensors]) -> GeneTensors:
    """What `make` gives, from the cache folder if it was made before.

    Args:
        world: its network, train images, seed and compute are part of what the result depends on.
        key: JSON: whatever else it depends on.
    """
    found = find_tensors(world, key)
    if found is None:
        found = keep_tensors(world, key, make())
    return found


def find_tensors(world: World, key: Mapping[str, Any]) -> GeneTensors | None:
    """What was kept for this world and key; None if nothing was, or it cannot be read."""
    with suppress(FileNotFoundError, OSError, SafetensorError):
        return load_file(_path(world, key))
    return None


def keep_tensors(world: World, key: Mapping[str, Any], tensors: GeneTensors) -> GeneTensors:
    """Keep tensors for `find_tensors`, and give them back."""
    path = _path(world, key)
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with suppress(StorageError, OSError):  # the cache is a convenience: without it all is made again
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.publish(path, save(tensors), overwrite=True)
    return tensors


def _path(world: World, key: Mapping[str, Any]) -> Path:
    whole = {
        **key,
        "host": world.host.widths,
        "arch": world.host.arch,
        "classes": world.class_digest,
        "pixels": world.train.digest,
        "seed": world.config.seed,
        "versions": versions(world.compute),
        "code": code_digest(),
    }
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return cache_dir() / f"tensors-{digest[:40]}.safetensors"
