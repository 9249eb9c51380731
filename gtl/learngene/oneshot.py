"""One-shot genes: channels of one trained network chosen by a score, without evolution: founders, and opponents.

Scores are per channel group: tensors that meet at an addition share one group, and are judged together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from gtl.critic import CriticTask, Gene, criticise, draw_tasks, ridge_head
from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.evolution.founding import EVEN, even_channels, top_channels
from gtl.genotype import Genotype
from gtl.layout import ChannelLayout
from gtl.life import World, norm_fitted
from gtl.models import ConvNet
from gtl.phenotype import thin_network
from gtl.seeds import derive, rng
from gtl.surgery import GeneTensors, gather
from gtl.training import Compute, place

BY_STATE = ("l1", "bn", "random")  # scores that look at the state dict alone
BY_IMAGES = ("taylor", "activation")  # scores that look at train images too
METHODS = (*BY_STATE, *BY_IMAGES, EVEN)
SCORE_IMAGES = 2048  # train images that a score looks at
SCORE_BATCH = 128

Scores = dict[str, npt.NDArray[np.float64]]
Pick = Callable[[Mapping[str, int]], Genotype]


@dataclass(frozen=True)
class Sight:
    """What scores of BY_IMAGES look at.

    Attributes:
        images: of train classes.
        compute: where to look at them.
        ridge: regulariser of the head that gives ``taylor`` its loss, as `ridge_head` has it.
    """

    images: ImageSet
    compute: Compute
    ridge: float

    @classmethod
    def of(cls, world: World) -> Sight:
        """The run's train images."""
        return cls(world.train, world.compute, world.config.critic.ridge)

    def rows(self, seed: int, purpose: str) -> torch.Tensor:
        """Which images are looked at: at most SCORE_IMAGES, drawn with `seed`."""
        return torch.from_numpy(rng(seed, purpose).permutation(len(self.images.labels))[:SCORE_IMAGES])

    def batches(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and labels of these images, as they are, where they are looked at; float32 whatever lives compute in."""
        device = self.compute.device
        for part in torch.split(rows, SCORE_BATCH):
            pixels = self.images.images[part].to(device)
            yield to_input(pixels, self.compute.memory_format), self.images.labels[part].to(device)


def channel_scores(
    state: Mapping[str, torch.Tensor], layout: ChannelLayout, method: str, seed: int = 0, world: World | None = None
) -> Scores:
    """Worth of every channel of a trained network: group -> float64 ``(channels,)``. The same for the same seed.

    Args:
        state: state dict, or the tensors of its full genotype.
        method: ``l1``: mean absolute weight of the channel's kernels (Li et al. 2017, arXiv 1608.08710); ``bn``: absolute
            norm scale (Liu et al. 2017, network slimming, arXiv 1708.06519); ``random``: seeded uniform draw; ``taylor``:
            mean absolute gradient of a gate on the channel (Molchanov et al. 2017, 2019); ``activation``: mean absolute
            activation. All of a group's tensors together.
        world: train images and where to compute, for ``taylor`` and ``activation``, whose networks are its hosts.

    Raises:
        ValueError: no such score, or one that needs a world and has none.
    """
    if method in BY_IMAGES:
        if world is None:
            raise ValueError(f"the channel score {method!r} looks at train images; give a world")
        network = thin_network(world.host.arch, layout.full(), gather(state, layout, layout.full()))
        return image_scores(network, method, Sight.of(world), seed)
    scores: Scores = {}
    draw = rng(seed, "channel scores", method)
    for group, width in layout.groups.items():
        total = np.zeros(width)
        if method == "random":
            total = draw.random(width)
        elif method == "bn":
            for norm in layout.norms[group]:
                total += state[f"{norm}.weight"].detach().abs().double().cpu().numpy()
        elif method == "l1":
            for name in layout.convolutions:
                if layout.owner(name) == group:
                    total += state[name].detach().abs().double().mean(dim=(1, 2, 3)).cpu().numpy()
        else:
            raise ValueError(f"unknown channel score {method!r}; known are {', '.join((*BY_STATE, *BY_IMAGES))}")
        scores[group] = total
    return scores


def image_scores(network: ConvNet, method: str, sight: Sight, seed: int = 0) -> Scores:
    """`channel_scores` of a network by one of BY_IMAGES. Its parameters are frozen, and it moves to where is computed."""
    network.requires_grad_(False)
    place(network, sight.compute)
    return (_taylor if method == "taylor" else _activation)(network, sight, sight.rows(seed, "score images"))


@torch.no_grad()
def _activation(network: ConvNet, sight: Sight, rows: torch.Tensor) -> Scores:
    """Mean absolute activation of every channel after its nonlinearity, over train images and places.

    The mean activation of Molchanov et al. 2017 (arXiv 1611.06440, section 2.2), a relative of the share of zeros (APoZ,
    Hu et al. 2016, arXiv 1607.03250).
    """
    totals = _zeros(network)
    for inputs, _ in sight.batches(rows):
        for group, found in network.activations(inputs).items():
            totals[group] += found.abs().mean(dim=(2, 3)).double().sum(0).cpu()
    return {group: (total / len(rows)).numpy() for group, total in totals.items()}


def _taylor(network: ConvNet, sight: Sight, rows: torch.Tensor) -> Scores:
    """First-order Taylor estimate of how the loss changes without a channel: mean over images of ``|dL/dgate|``.

    The gate multiplies what the group's norms give (Molchanov et al. 2019, arXiv 1906.10771: gates after batch norm), so
    its gradient at 1 is the sum over the group's norms of ``scale * dL/dscale + shift * dL/dshift``. It is taken image by
    image, and its absolute values are averaged (Molchanov et al. 2017, arXiv 1611.06440, eq. 8), so images do not cancel
    out and the size of batches does not count.

    The loss is the squared error of a linear head on the last features, fitted in closed form (`ridge_head`) on half of
    the images, on the other half. A checkpoint's own head is not used: its classes need not be the train classes, nor
    numbered as they are, so every network is asked the same.
    """
    asked, classes = rows[1::2], sight.images.n_classes
    head = _fitted_head(network, sight, rows[::2])
    gates: dict[str, torch.Tensor] = {}
    for group, norms in network.layout.norms.items():
        for norm in norms:
            network.get_submodule(norm).register_forward_hook(lambda *given, group=group: given[-1] * gates[group])
    totals = _zeros(network)
    for inputs, labels in sight.batches(asked):
        for group, width in network.widths.items():
            gates[group] = torch.ones(len(labels), width, 1, 1, device=inputs.device, requires_grad=True)
        error = head(network.features(inputs)) - F.one_hot(labels, classes).double()
        slopes = torch.autograd.grad(error.square().sum(), list(gates.values()))
        for group, slope in zip(gates, slopes, strict=True):
            totals[group] += slope.flatten(1).abs().double().sum(0).cpu()
    return {group: (total / len(asked)).numpy() for group, total in totals.items()}


def layer_activity(state: Mapping[str, torch.Tensor], world: World) -> dict[str, float]:
    """How much learning still moves each convolution of a trained network, by name: the share of its weights whose
    gradient is at least a thousandth of their mean size.

    After Heur-LG (Wang et al. 2022, arXiv 2106.06788), which tracks the share of gradients above a fixed threshold; ours
    is relative, so that layers of different scale compare. The loss is that of `_taylor`, over train images.
    """
    layout, sight = world.layout, Sight.of(world)
    network = thin_network(world.host.arch, layout.full(), gather(state, layout, layout.full())).requires_grad_(False)
    place(network, world.compute)
    rows = sight.rows(0, "layer activity")
    head = _fitted_head(network, sight, rows[::2])
    weights = [network.get_parameter(name).requires_grad_(True) for name in layout.convolutions]
    slopes = [torch.zeros_like(weight) for weight in weights]
    for inputs, labels in sight.batches(rows[1::2]):
        error = head(network.features(inputs)) - F.one_hot(labels, world.train.n_classes).double()
        for total, slope in zip(slopes, torch.autograd.grad(error.square().sum(), weights), strict=True):
            total.add_(slope)
    found = zip(layout.convolutions, slopes, weights, strict=True)
    count = len(rows[1::2])
    return {n: float((s.abs() / count >= 1e-3 * w.detach().abs().mean()).double().mean()) for n, s, w in found}


@torch.no_grad()
def _fitted_head(network: ConvNet, sight: Sight, rows: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear head on the network's last features of these images, in closed form."""
    features = torch.cat([network.features(inputs).float() for inputs, _ in sight.batches(rows)])
    labels = sight.images.labels[rows].to(features.device)
    return ridge_head(features, labels, sight.ridge, sight.images.n_classes)


def _zeros(network: ConvNet) -> dict[str, torch.Tensor]:
    return {group: torch.zeros(width, dtype=torch.float64) for group, width in network.widths.items()}


def picker(
    state: Mapping[str, torch.Tensor], layout: ChannelLayout, method: str, seed: int = 0, world: World | None = None
) -> Pick:
    """How a method chooses so many channels per group of a trained network; what it takes is computed here, once.

    Args:
        state, method, world: as `channel_scores` has them; `method` may also be ``uniform``: evenly spaced channels.

    Raises:
        ValueError: as `channel_scores`.
    """
    if method == EVEN:
        return lambda counts: even_channels(counts, layout.groups)
    ranking = channel_scores(state, layout, method, seed, world)
    return lambda counts: top_channels(counts, ranking)


def one_shot_genotype(
    state: Mapping[str, torch.Tensor],
    layout: ChannelLayout,
    counts: Mapping[str, int],
    method: str,
    seed: int = 0,
    world: World | None = None,
) -> Genotype:
    """The best-scored channels of a trained network, this many per group; for ``uniform``, evenly spaced ones."""
    return picker(state, layout, method, seed, world)(counts)


@dataclass(frozen=True)
class Jury:
    """Critic tasks of validation classes that all cuts of a network meet, so that their accuracies compare."""

    world: World
    seed: int
    tasks: list[CriticTask]

    @classmethod
    def called(cls, world: World, purpose: str, count: int) -> Jury:
        """So many tasks; the same for the same configuration, purpose and count.

        Raises:
            DataError: a validation class has too few images.
        """
        seed = derive(world.config.seed, purpose)
        return cls(world, seed, draw_tasks(world.val, world.config.critic, seed, count))

    @classmethod
    def for_one_shots(cls, world: World) -> Jury:
        """The one that `one_shot` asks."""
        return cls.called(world, "one-shot", world.config.critic.final_tasks)

    def cut(self, tensors: Mapping[str, torch.Tensor], genotype: Genotype) -> tuple[GeneTensors, float]:
        """These channels of a network, their norms fitted to the circuit alone, and its mean accuracy on the tasks.

        A cut is inherited as it is, so features of all depths count, whatever the run's own critic reads.
        """
        world = self.world
        section = world.config.critic.model_copy(update={"depths": None})
        cut = norm_fitted(gather(tensors, world.layout, genotype), genotype, world, self.seed)
        gene = Gene(world.host, genotype, cut)
        scores = criticise(gene, self.tasks, section, self.seed, world.compute)
        return cut, sum(scores) / len(scores)


@dataclass(frozen=True)
class OneShot:
    """A one-shot gene of a network.

    Attributes:
        method: one of METHODS, which chose its channels.
        allocation: what said how many of each group: ``uniform``, ``early``, ``level``, ``searched``, or ``gene`` (a
            learngene's own counts).
        fitness: its accuracy on the tasks of `Jury.for_one_shots`.
    """

    method: str
    allocation: str
    genotype: Genotype
    tensors: GeneTensors
    fitness: float


def one_shot(
    world: World,
    tensors: Mapping[str, torch.Tensor],
    counts: Mapping[str, int],
    method: str,
    *,
    allocation: str = "gene",
    pick: Pick | None = None,
) -> OneShot:
    """One candidate: so many channels per group of a trained network, chosen by one method, with its norms fitted.

    Args:
        tensors: of the whole network, head excluded.
        counts: channels per group.
        method: one of METHODS.
        allocation: what the counts are called.
        pick: the `picker` of tensors and method, for a caller that has it.

    Raises:
        ValueError: no such method.
    """
    pick = pick or picker(tensors, world.layout, method, world.config.seed, world)
    genotype = pick(counts)
    return OneShot(method, allocation, genotype, *Jury.for_one_shots(world).cut(tensors, genotype))
