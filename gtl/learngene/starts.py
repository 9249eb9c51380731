"""How newborns are initialised: from nothing, with a gene, with whole layers, with everything; free to learn or frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from gtl.fewshot import Training
from gtl.genotype import Genotype
from gtl.models import ArchSpec, ConvNet, build
from gtl.phenotype import folded, newborn
from gtl.versions import state_digest


@dataclass(frozen=True, eq=False)
class Initialisation:
    """A start (`gtl.fewshot.Start`) as a value, which can be sent to another process and recognised by its digest.

    Attributes:
        host: the descendants' network; its number of classes does not matter.
        tensors: what they inherit, named as in the state dict; the head never.
        genotype: the channels that `tensors` are a circuit of: they are inserted with the zero fill, as `gtl.inherit`
            does. None: `tensors` are whole ones, copied; what is not among them is random.
        frozen: whether only the head learns (a linear probe). The norms then are part of the convolutions: they neither
            learn nor see the new images.
        training: how descendants are trained, if otherwise than usual. It has a digest of its own: newborns are the same.
    """

    host: ArchSpec
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    genotype: Genotype | None = None
    frozen: bool = False
    training: Training | None = None

    def __call__(self, classes: int, seed: int) -> ConvNet:
        """A newborn; `seed` is of everything that is not inherited."""
        spec = ArchSpec(self.host.arch, self.host.widths, classes)
        if self.genotype is not None:
            network = newborn(spec, self.genotype, self.tensors, seed)
        else:
            network = build(spec, seed)
            network.load_state_dict({**network.state_dict(), **self.tensors})
        if self.frozen:
            network = folded(network).requires_grad_(False)
            network.head.requires_grad_(True)
        return network

    @cached_property
    def digest(self) -> str:
        """sha256 of all but `training`."""
        genotype = None if self.genotype is None else self.genotype.to_json()
        return state_digest([self.host.arch, list(self.host.widths), genotype, self.frozen], self.tensors)

    @property
    def probe(self) -> Initialisation:
        """The same, with only the head free to learn."""
        return replace(self, frozen=True)


def scratch_start(host: ArchSpec) -> Initialisation:
    """Nothing inherited: a random network."""
    return Initialisation(host)


def gene_start(host: ArchSpec, genotype: Genotype, tensors: Mapping[str, torch.Tensor]) -> Initialisation:
    """A gene inserted into a random network, as `gtl.inherit` does; the full genotype is full transfer."""
    return Initialisation(host, dict(tensors), genotype)


def thin_start(host: ArchSpec, genotype: Genotype, tensors: Mapping[str, torch.Tensor] | None = None) -> Initialisation:
    """The thin network of a circuit's channels and nothing else, with the circuit's tensors or (None) random."""
    return Initialisation(ArchSpec(host.arch, tuple(genotype.counts.items()), host.num_classes), dict(tensors or {}))
