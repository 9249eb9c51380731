"""Versions of everything that a result depends on; part of every run and learngene."""

from __future__ import annotations

import platform
from importlib.metadata import version

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


def _cpu() -> str:
    """What the last bits of a result on a CPU depend on."""
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
