"""Stochastic subnetwork annealing: a descendant shrinks to its gene's circuit while it learns.

Whitaker & Whitley 2024, arXiv 2401.08830: a subnetwork is a matrix of probabilities with which parameters are part of a
forward pass, and these are annealed to zero and one. There the target is a pruned network; here it is a gene's mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch.func import functional_call

from gtl.config import TrainingSection
from gtl.data.images import ImageSet
from gtl.descent import Descent
from gtl.errors import ConfigError, GeneMismatchError
from gtl.genotype import Genotype
from gtl.layout import ChannelLayout
from gtl.models import ConvNet
from gtl.surgery import check_fits, kept_indices
from gtl.training import Compute, Loss, TrainingResult, learn, train
from gtl.transfer.rule import OnEpoch, Rule, generator_of, shown, write


@dataclass(frozen=True)
class SubnetworkAnnealing(Rule):
    """Everything outside the circuit takes part with a probability that falls to zero; the circuit always takes part.

    What is left out at a step is zero in the forward pass and gets no gradient; its stored weight still follows momentum
    and weight decay. When the training ends, every parameter outside the circuit is zero: the descendant computes what
    the gene's thin network computes. With a gene of all channels this is the plain training, to the last bit.

    Known of the source are its abstract and reviews: stochastic masks per parameter, drawn at every forward pass, and
    probabilities that are annealed to the target. The two schedules, their default length, and that weights are not
    divided by their probability (norms make up for the scale) are ours; so are channels as the unit.

    Attributes:
        genotype: the circuit's channels.
        initial: probability at the first step, in [0, 1]; 0: the circuit alone from the beginning.
        duration: share of the steps over which it falls to zero, in (0, 1]; after them only the circuit is trained.
        schedule: how it falls: ``cosine`` or ``linear``.
        unit: what is drawn: each ``parameter``, as in the source, or each ``channel`` with its norms' scale and shift,
            which silences it as `gtl.surgery.mask` does.
    """

    name: ClassVar[str] = "subnetwork-annealing"
    genotype: Genotype
    initial: float = 1.0
    duration: float = 0.5
    schedule: Literal["cosine", "linear"] = "cosine"
    unit: Literal["parameter", "channel"] = "parameter"

    def __post_init__(self) -> None:
        self._check("initial", 0.0, 1.0)
        self._check("duration", 0.0, 1.0, "(]")
        for option, known in (("schedule", ("cosine", "linear")), ("unit", ("parameter", "channel"))):
            if getattr(self, option) not in known:
                raise ConfigError(f"{self.name}: {option} is {getattr(self, option)!r}; give {' or '.join(known)}")

    def probability(self, step: int, steps: int) -> float:
        """With which a parameter outside the circuit takes part in `step` of `steps`: `initial` at 0, exactly 0 at the end."""
        passed = step / (self.duration * steps)
        if passed >= 1.0:
            return 0.0
        return self.initial * (1.0 - passed if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * passed)))

    def train(
        self,
        network: torch.nn.Module,
        images: ImageSet,
        recipe: TrainingSection,
        *,
        steps: int,
        seed: int,
        compute: Compute,
        on_epoch: OnEpoch = None,
    ) -> TrainingResult:
        """As `gtl.training.train`, on a network that is masked at every step.

        Raises:
            GeneMismatchError: the network is not of the gene's family, narrower than the gene, or its norms are folded.
        """
        target = Target.of(network, self.genotype, compute.device)
        if not target.regions:
            return train(network, images, recipe, steps=steps, seed=seed, compute=compute, on_epoch=on_epoch)

        def circuit() -> dict[str, torch.Tensor]:
            return {name: network.get_parameter(name).detach() * region for name, region in target.regions.items()}

        result = train(
            network, images, recipe, steps=steps, seed=seed, compute=compute,
            learner=partial(self._learn, target, seed, steps), on_epoch=shown(network, circuit, on_epoch),
        )  # fmt: skip
        write(network, circuit())
        return result

    def _learn(
        self,
        target: Target,
        seed: int,
        steps: int,
        network: torch.nn.Module,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        descent: Descent,
        step: int,
        compute: Compute,
        loss: Loss | None = None,
    ) -> torch.Tensor:
        probability = self.probability(step, steps)
        draws = generator_of(seed, step, compute.device)
        drawn = target.channels(probability, draws) if self.unit == "channel" else target.parameters(probability, draws)
        weights = {name: network.get_parameter(name) * mask for name, mask in drawn.items()}

        def masked(x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = functional_call(network, weights, (x,))
            return logits

        return learn(masked, inputs, labels, descent, step, compute, loss)


@dataclass(frozen=True)
class Target:
    """A circuit in a network, as masks on the device; True is inside.

    Attributes:
        regions: parameter name -> which of its entries are the circuit's, for parameters that have others.
        kept: group -> its channels, bool ``(C,)``.
        norms: group -> parameters of its norms.
    """

    regions: Mapping[str, torch.Tensor]
    kept: Mapping[str, torch.Tensor]
    norms: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, network: torch.nn.Module, genotype: Genotype, device: torch.device) -> Target:
        """Where a genotype's circuit lies in a network of its family, as wide or wider."""
        if not isinstance(network, ConvNet):
            raise GeneMismatchError(
                f"subnetwork annealing needs to know which channels are the gene's; a {type(network).__name__} does not "
                "say. Use a network of gtl.models, or another rule"
            )
        layout = network.layout
        check_fits(genotype, layout)
        genotype = genotype.widened(layout.groups)
        learned = dict(network.named_parameters())
        norms = {
            group: tuple(f"{norm}.{kind}" for norm in of for kind in ("weight", "bias"))
            for group, of in layout.norms.items()
        }
        folded = [name for of in norms.values() for name in of if name not in learned]
        if folded:
            raise GeneMismatchError(
                f"the network has no {folded[0]}: its norms are folded, as in a linear probe. Use another start or rule"
            )
        regions = {name: circuit_region(layout, genotype, name).to(device) for name in layout.axes if name in learned}
        kept = {group: torch.tensor(mask.bits).to(device) for group, mask in genotype.items()}
        return cls({name: region for name, region in regions.items() if not region.all()}, kept, norms)

    def parameters(self, probability: float, draws: torch.Generator) -> dict[str, torch.Tensor]:
        """Masks with every parameter outside drawn on its own."""
        return {name: _drawn(region, probability, draws) for name, region in self.regions.items()}

    def channels(self, probability: float, draws: torch.Generator) -> dict[str, torch.Tensor]:
        """Masks of the norms, with every channel outside drawn as one."""
        drawn = {group: _drawn(kept, probability, draws) for group, kept in self.kept.items()}
        return {name: drawn[group] for group, names in self.norms.items() for name in names}


def circuit_region(layout: ChannelLayout, genotype: Genotype, tensor: str) -> torch.Tensor:
    """Which entries of a tensor, the head's too, belong to the circuit: all of its channel axes are kept ones; bool."""
    shape = layout.shapes[tensor]
    region = torch.ones(shape, dtype=torch.bool)
    for axis, index in kept_indices(layout, genotype, tensor).items():
        region &= torch.zeros(shape, dtype=torch.bool).index_fill_(axis, index, True)
    return region


def _drawn(inside: torch.Tensor, probability: float, draws: torch.Generator) -> torch.Tensor:
    if probability == 0.0:
        return inside
    return inside | (torch.rand(inside.shape, generator=draws, device=inside.device) < probability)
