"""InherNet as a start of descendants, and as an opponent of a learngene of the same size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from gtl.errors import ConfigError
from gtl.life import NORM_IMAGES, World
from gtl.models import ArchSpec, ConvNet, build
from gtl.seeds import derive, rng
from gtl.surgery import GeneTensors
from gtl.training import Compute, reestimate_norms
from gtl.transfer.inhernet import BudgetError, equal_experts, tell_apart
from gtl.transfer.inhernet_file import FORMAT, rebuild
from gtl.transfer.inhernet_options import InherNetOptions, InherNetReport
from gtl.transfer.low_rank import InheritedLayer, inherited_layers
from gtl.versions import source_digest, state_digest


@dataclass(frozen=True, eq=False)
class InherNetStart:
    """A start (`gtl.fewshot.Start`) whose newborns are InherNets of one trained network, with a fresh head.

    Attributes:
        host: the network that they inherit from; its number of classes does not matter.
        tensors: what they inherit, named as in their state dict: equal experts and gates of zeros, if they have not lived; the
            head never.
        ranks: of their inherited layers.
        experts: of each.
        deviation: of the experts at birth (`InherNetOptions.deviation`); None: they have become different in a life.
    """

    host: ArchSpec
    tensors: Mapping[str, torch.Tensor]
    ranks: Mapping[str, int]
    experts: int
    deviation: float | None

    @classmethod
    def of(
        cls,
        host: ArchSpec,
        tensors: Mapping[str, torch.Tensor],
        options: InherNetOptions,
        images: torch.Tensor | None = None,
    ) -> tuple[InherNetStart, InherNetReport]:
        """The start from a whole network's tensors, as `gtl.surgery.gather` gives them for the full genotype.

        Args:
            options, images: as `gtl.transfer.inhernet.inhernet` takes them.

        Raises:
            ConfigError: as `gtl.transfer.inhernet.inhernet`, or an inherited classifier, which newborns do not have.
        """
        if options.classifier != "dense":
            raise ConfigError("classifier: newborns have a fresh one for their own classes; leave it dense")
        network = build(host)
        network.load_state_dict({**network.state_dict(), **tensors})
        inheritor, report = equal_experts(network, options, images=images)
        state = {name: tensor for name, tensor in inheritor.state_dict().items() if name not in network.layout.head}
        return cls(host, state, report.ranks, options.experts, options.deviation), report

    def __call__(self, classes: int, seed: int) -> ConvNet:
        """A newborn; `seed` is of its head, and of gates or deviations."""
        network = build(ArchSpec(self.host.arch, self.host.widths, classes), seed)
        layers = {name: [rank, self.experts] for name, rank in self.ranks.items()}
        rebuild(network, {"format": FORMAT, "layers": layers})
        network.load_state_dict({**network.state_dict(), **self.tensors})
        if self.deviation is not None:
            tell_apart(network, self.deviation, derive(seed, "experts"))
        return network

    def after(self, life: Mapping[str, torch.Tensor]) -> InherNetStart:
        """The same after one of its newborns has learned something.

        Args:
            life: its state dict; the head stays behind.
        """
        return replace(self, tensors={name: life[name] for name in self.tensors}, deviation=None)

    def refitted(self, images: torch.Tensor, compute: Compute) -> InherNetStart:
        """The same, with its norms' statistics measured on itself, as one-shot genes have them.

        Args:
            images: uint8 ``(N, H, W, 3)``.
        """
        network = self(1, 0)
        reestimate_norms(network, images, compute)
        state = network.to("cpu").state_dict()
        measured = {name: state[name] for name in self.tensors if name.endswith((".running_mean", ".running_var"))}
        return replace(self, tensors={**self.tensors, **measured})

    @cached_property
    def digest(self) -> str:
        """sha256 of everything above, and of the source of its layers, which are no part of `gtl.versions.code_digest`."""
        words = [
            "inhernet",
            source_digest("transfer/low_rank.py"),
            self.host.arch,
            list(self.host.widths),
            sorted(self.ranks.items()),
        ]
        return state_digest([*words, self.experts, self.deviation], self.tensors)


@dataclass(frozen=True)
class Sized:
    """An InherNet that is as large as a gene, or less.

    Attributes:
        name: in tables.
        start: its newborns.
        parameters: of its convolutions, dense ones and gates counted.
        about: ranks, experts, energy kept, and images looked at, as JSON.
    """

    name: str
    start: InherNetStart
    parameters: int
    about: dict[str, object]


PLAIN, ACTIVE, CENTRED = INHERNETS = ("compact InherNet", "compact InherAct", "compact InherAct, centred")


def sized_inhernets(world: World, tensors: GeneTensors, size: int, names: Sequence[str] = INHERNETS) -> list[Sized]:
    """InherNets of a whole network, as in the paper, as InherAct has them, and centred, with at most so many parameters.

    All start exactly unless the released scaling is asked for, but for their norms, which see other activations than before
    and are measured anew. All but the first weigh by activations on train images and tell their experts apart by deviations.
    Experts, deviation, shrinkage, the first layer's form and the scaling are the configuration's (``transfer.inhernet``). Where
    so many experts do not fit, fewer do; none where not even rank 1 does.

    Args:
        world: its host and layout are the network's; train images are looked at, and not learned from.
        tensors: the network's.
        size: parameters of convolutions, counted as `ChannelLayout.circuit_parameters` counts a gene.
        names: of those that are wanted.
    """
    plain = build(world.host)
    whole = sum(parameter.numel() for parameter in plain.parameters())
    budget = (size + whole - world.layout.parameters) / whole  # norms and head are no part of the size
    rows = rng(world.config.seed, "inhernet images").permutation(len(world.train.labels))[:NORM_IMAGES]
    images = world.train.images[torch.from_numpy(rows).to(world.train.images.device)]
    section, found = world.config.transfer.inhernet, []
    for name, seen, deviation, centred in (
        (PLAIN, None, 0.0, False),
        (ACTIVE, images, section.deviation, False),
        (CENTRED, images, section.deviation, True),
    ):
        if name not in names:
            continue
        for experts in range(section.experts, 0, -1):
            options = InherNetOptions(
                budget=budget,
                experts=experts,
                deviation=deviation if experts > 1 else 0.0,
                centred=centred,
                shrink=section.shrink,
                first=section.first,
                released_scaling=section.released_scaling,
            )
            try:
                start, report = InherNetStart.of(world.host, tensors, options, seen)
            except BudgetError:
                continue
            kept = {layer.layer: round(layer.kept, 4) for layer in report.layers if layer.rank is not None}
            about = {
                "ranks": dict(report.ranks),
                "experts": experts,
                "energy": kept,
                "looked_at": len(rows),
                "compact": True,
            }
            start = start.refitted(images, world.compute)
            found.append(Sized(name, start, _convolution_parameters(start), about))
            break
    return found


def _convolution_parameters(start: InherNetStart) -> int:
    """What stands in the place of the host's convolutions."""
    network = start(1, 0)
    inherited: dict[str, InheritedLayer] = inherited_layers(network)
    dense = [name for name in network.layout.convolutions if name.removesuffix(".weight") not in inherited]
    total = sum(network.get_parameter(name).numel() for name in dense)
    return total + sum(parameter.numel() for layer in inherited.values() for parameter in layer.parameters())
