"""Networks grown from genes: the thin network of just the circuit, and the newborn host that carries it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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


def folded(network: ConvNet) -> ConvNet:
    """A copy for evaluation only, with every norm folded into the convolution before it: the same function, less work."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        for (name, layer), (norm_name, norm) in pairwise(module.named_children()):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, norm_name, nn.Identity())
    return network


def frozen(network: nn.Module) -> nn.Module:
    """A copy that can be asked and never learns: in evaluation mode, without gradients, its norms folded if it is gtl's."""
    copied = folded(network) if isinstance(network, ConvNet) else copy.deepcopy(network)
    return copied.eval().requires_grad_(False)
