"""Networks by what a command line can say: gtl's own, torchvision's, or a function of the user's."""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from gtl.errors import ConfigError
from gtl.models import FAMILIES, build, spec_of


def by_name(
    name: str, num_classes: int, *, width: float = 1.0, family: str = "64-128-256-512", seed: int = 0
) -> nn.Module:
    """A fresh network; the same name, options and seed give the same weights.

    Args:
        name: ``vgg11``, ``resnet12``; one of `gtl.models.adapters.NAMES`; or ``MODULE:FUNCTION``, which is called with
            `num_classes` and returns a network whose class is registered (modules of the current folder are found).
        width, family: of gtl's own networks; the others have theirs.

    Raises:
        ConfigError: no such network, or options that it does not have.
    """
    if name in FAMILIES:
        return build(spec_of(name, num_classes=num_classes, width=width, family=family), seed)
    from gtl.models.adapters import NAMES, torchvision_network  # loading torchvision takes a second

    if width != 1.0 or family != "64-128-256-512":
        raise ConfigError(f"{name} has no width and no family to choose; leave --width and --family out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in NAMES:
            return torchvision_network(name, num_classes)
        if ":" in name:
            return _of_user(name, num_classes)
    known = ", ".join((*FAMILIES, *NAMES))
    raise ConfigError(f"unknown network {name!r}; known are {known}, and MODULE:FUNCTION for one of your own")


def _of_user(name: str, num_classes: int) -> nn.Module:
    module_name, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        make = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name}: {error}") from None
    try:
        with suppress(ValueError):  # what is built in may not tell its signature
            inspect.signature(make).bind(num_classes)
    except TypeError as error:
        raise ConfigError(f"{name} must be a function that takes the number of classes alone: {error}") from None
    network = make(num_classes)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{name} returned a {type(network).__name__}, not a torch.nn.Module")
    return network
