"""Versions of everything that a result depends on; part of every run and learngene."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gtl.training import Compute
from gtl.version import __version__

PACKAGES = ("torch", "numpy", "deap", "safetensors")


def versions(compute: Compute) -> dict[str, str]:
    """Name -> version, with the Python version, what computes (on a CPU also with how many threads), and in which way."""
    device = compute.device
    found = {"gtl": __version__, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    return found | compute.words


@cache
def code_digest() -> str:
    """sha256 over the source of everything that trains and tests: what a cached result must have been computed by."""
    names = ("fewshot", "training", "descent", "muon", "resuming", "packing", "distillation", "life", "phenotype")
    own = [f"{name}.py" for name in (*names, "surgery", "layout", "seeds", "learngene/founders", "learngene/starts")]
    return source_digest(*own, "models/*.py", "data/[abi]*.py")


@cache
def source_digest(*patterns: str) -> str:
    """sha256 over the source of some of gtl's modules, by file names or patterns below the package."""
    package = Path(__file__).parent
    files = [file for pattern in patterns for file in sorted(package.glob(pattern))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def state_digest(words: Sequence[Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of JSON and tensors; tensors that were read from a file come in another order, and are the same."""
    ordered = sorted(tensors.items())
    shapes = [(name, list(tensor.shape)) for name, tensor in ordered]
    found = hashlib.sha256(json.dumps([*words, shapes], sort_keys=True).encode())
    for _, tensor in ordered:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _cpu() -> str:
    """What the last bits of a result on a CPU depend on."""
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
