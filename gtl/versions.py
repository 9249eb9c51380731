"""Versions of everything that a result depends on; part of every run and learngene."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

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
    names = [f"{name}.py" for name in ("fewshot", "training", "phenotype", "surgery", "layout", "seeds")]
    return source_digest(*names, "models/*.py", "data/[abi]*.py")


@cache
def source_digest(*patterns: str) -> str:
    """sha256 over the source of some of gtl's modules, by file names or patterns below the package."""
    package = Path(__file__).parent
    files = [file for pattern in patterns for file in sorted(package.glob(pattern))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _cpu() -> str:
    """What the last bits of a result on a CPU depend on."""
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
