"""Versions of everything that a result depends on; part of every run and learngene."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from gtl.version import __version__

PACKAGES = ("torch", "numpy", "deap", "safetensors")


def versions(device: torch.device) -> dict[str, str]:
    """Name -> version, with the Python version and the kind of device."""
    found = {"gtl": __version__, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
    return found
