"""Networks grown from genes: the thin network of just the circuit, and the newborn host that carries it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gtl.genotype import Genotype
from gtl.models import ArchSpec, ConvNet, build
from gtl.surgery import scatter


def thin_network(arch: str, genotype: Genotype, tensors: Mapping[str, torch.Tensor], num_classes: int = 1) -> ConvNet:
    """The gene alone: a network of the gene's widths that holds its tensors; only the head is random."""
    network = build(ArchSpec(arch, tuple(genotype.counts.items()), num_classes))
    network.load_state_dict({**network.state_dict(), **tensors})
    return network.eval()


def newborn(spec: ArchSpec, genotype: Genotype, tensors: Mapping[str, torch.Tensor], seed: int) -> ConvNet:
    """A fresh random network with the gene inserted, zero fill included.

    Raises:
        GeneMismatchError: the gene does not fit `spec`.
    """
    network = build(spec, seed)
    network.load_state_dict(scatter(tensors, genotype, network.state_dict(), network.layout))
    return network
