"""What every learngene tells about itself, however it was made: its size, and the configuration without this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gtl.config import Config
from gtl.genotype import Genotype
from gtl.layout import ChannelLayout
from gtl.learngene.artifact import Learngene
from gtl.life import World


def make_learngene(
    world: World, genotype: Genotype, tensors: Mapping[str, torch.Tensor], provenance: dict[str, Any]
) -> Learngene:
    """A learngene of these tensors. `provenance` must not hold times or paths: equal runs give equal bytes."""
    return Learngene(world.host.arch, genotype, tensors, shares(world.layout, genotype), provenance, ())


def shares(layout: ChannelLayout, genotype: Genotype) -> dict[str, float | int]:
    """Size of a gene, counted both ways (methods.md 1.3): circuits (both sides restricted) and whole kernels."""
    counts = genotype.counts
    return {
        "circuit": layout.circuit_share(counts),
        "kernels": layout.kernel_share(counts),
        "circuit_parameters": layout.circuit_parameters(counts),
        "kernel_parameters": layout.kernel_parameters(counts),
        "network_parameters": layout.parameters,
    }


def look_up(record: Any, *keys: str) -> Any:
    """What stands under these keys of a record of any shape; None where it has no such key."""
    for key in keys:
        if not isinstance(record, Mapping) or key not in record:
            return None
        record = record[key]
    return record


def plain_config(config: Config) -> dict[str, Any]:
    """A configuration as JSON, without what says nothing elsewhere: paths, and the cluster, which changes no result."""
    plain = config.model_dump(mode="json")
    plain["data"]["root"] = None
    del plain["cluster"]
    if config.founders.checkpoint is not None:
        plain["founders"]["checkpoint"] = Path(config.founders.checkpoint).name
    return plain
