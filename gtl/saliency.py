"""Saliency of newborns: where in an image a network answers that never trained (what the GTL paper's Fig. 5 shows).

A newborn's head is random, so maps of its class scores mean nothing. Two kinds of map need no head:

* ``attention`` (the default): the mean over channels of a group's squared activation (Zagoruyko and Komodakis 2017, arXiv
  1612.03928, section 3.1; their sum over channels differs by a factor, which scaling takes out);
* ``grad-cam`` (Selvaraju et al. 2017, arXiv 1610.02391, Eqs. 1 and 2) of the similarity to the own class's mean over a few
  support images: the score by which the nearest class mean decides.

Random networks give plausible pictures, too (Adebayo et al. 2018, arXiv 1810.03292), so the pictures alone show little.
`compare_maps` therefore gives a number: the rank agreement of a newborn's map with that of the trained whole network on the
same image, for random newborns too, and with the trained network's map of another image, which is what the position in the
picture alone explains. High agreement says that a newborn answers at the places where training would make it answer. It
does not say that these places are the object (nobody has marked the objects), nor that the answers are of any use: that
is what accuracies are for. A gene cut from that trained network itself agrees by its nature, even one of random channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch.nn import functional as F

from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.fewshot import SCRATCH, FeatureStart
from gtl.models import ConvNet
from gtl.seeds import derive, rng
from gtl.stats import Estimate, estimate, paired_difference
from gtl.training import Compute, place

Method = Literal["attention", "grad-cam"]
# Rows and columns of a map, at least: with fewer, as in the last layers on small images, hardly a place is left.
PLACES = 7
NEWBORNS = 5  # of each start; their agreement with the trained network is averaged image by image
IMAGES, SUPPORT = 10, 5  # of each class, as far as there are so many: to look at, and behind a class mean
PICTURED = 6  # images whose maps are kept


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation between a start's maps and the trained network's, over images (their interval).

    Attributes:
        start: name of the start.
        same: with the trained network's map of the same image.
        other: with its map of an image of another class.
        gain: paired difference of `same` to random newborns; None for these.
    """

    start: str
    same: Estimate
    other: Estimate
    gain: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        gain = None if self.gain is None else self.gain.to_json()
        return {"start": self.start, "same": self.same.to_json(), "other": self.other.to_json(), "gain": gain}


@dataclass(frozen=True, eq=False)
class Saliency:
    """Maps of a few images by several starts, and how far the maps of many agree with the trained network's.

    Attributes:
        source: of the images.
        method, group, grid: how maps were made, of which channel group's activation, and from how many rows of places.
        newborns: of each start, behind the agreement; the maps are the first one's.
        pictured: (class, position in the set) of the images whose maps are here.
        pixels: those images, uint8 ``(R, H, W, 3)``.
        maps: start -> float32 ``(R, H, W)`` in 0..1.
        agreements: one a start, the trained network's own left out; none where it is not among the starts.
    """

    source: str
    method: Method
    group: str
    grid: int
    newborns: int
    pictured: tuple[tuple[str, int], ...]
    pixels: npt.NDArray[np.uint8]
    maps: Mapping[str, npt.NDArray[np.float32]]
    agreements: tuple[Agreement, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain form, without pixels and maps."""
        return {
            "method": self.method,
            "group": self.group,
            "grid": self.grid,
            "newborns": self.newborns,
            "pictured": [{"class": name, "image": index} for name, index in self.pictured],
            "agreement": [agreement.to_json() for agreement in self.agreements],
        }


@torch.no_grad()
def deepest_group(network: ConvNet, pixels: torch.Tensor, compute: Compute) -> str:
    """The deepest channel group whose activation has at least 7 x 7 places for images like these; else the first group.

    Args:
        network: placed on `compute.device` and put into evaluation mode.
        pixels: uint8 ``(N, H, W, 3)``.
    """
    place(network, compute)
    return _deepest(network.eval().activations(to_input(pixels.to(compute.device), compute.memory_format)))


@torch.no_grad()
def attention(
    network: ConvNet,
    pixels: torch.Tensor,
    compute: Compute,
    *,
    group: str | None = None,
    channels: Sequence[int] | None = None,
) -> torch.Tensor:
    """Mean squared activation over the channels of a group, at every place of its activation.

    Args:
        network: placed on `compute.device` and put into evaluation mode.
        pixels: uint8 ``(N, H, W, 3)``.
        group: channel group; None: `deepest_group`.
        channels: of the group; None: all. With those of a gene, a newborn gives what the gene gives alone.

    Returns:
        float32 ``(N, h, w)`` on the CPU, not negative, not scaled (`upsampled` makes pictures of it).

    Raises:
        KeyError: the network has no such group.
    """
    place(network, compute)
    network.eval()
    found = []
    for batch in torch.split(pixels.to(compute.device), compute.eval_batch):
        activation = _activation(network.activations(to_input(batch, compute.memory_format)), group).float()
        if channels is not None:
            activation = activation[:, torch.as_tensor(list(channels), device=activation.device)]
        found.append(activation.square().mean(dim=1))
    return torch.cat(found).cpu()


def grad_cam(
    network: ConvNet,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    support: torch.Tensor,
    compute: Compute,
    *,
    group: str | None = None,
) -> torch.Tensor:
    """Grad-CAM of the cosine similarity between an image's features and its own class's mean.

    Features are the last group's activation, averaged over places and scaled to unit length; a class's mean is over its
    support images.

    Args:
        network: placed on `compute.device` and put into evaluation mode.
        pixels: uint8 ``(N, H, W, 3)``.
        labels: int64 ``(N,)``, each image's class in 0..C-1.
        support: uint8 ``(C, S, H, W, 3)``, other images of the classes.
        group: as `attention` has it.

    Returns:
        float32 ``(N, h, w)`` on the CPU, not negative, not scaled. All zero where nothing in the group speaks for the class.

    Raises:
        KeyError: the network has no such group.
    """
    place(network, compute)
    network.eval()
    batch = compute.eval_batch
    with torch.no_grad():
        parts = torch.split(support.flatten(0, 1).to(compute.device), batch)
        known = torch.cat([_features(network.activations(to_input(part, compute.memory_format))) for part in parts])
        means = known.view(*support.shape[:2], -1).mean(dim=1)
    found = []
    for part, classes in zip(torch.split(pixels.to(compute.device), batch), torch.split(labels, batch), strict=True):
        # the input asks for gradients, so that there are some in a network whose weights are frozen, too
        activations = network.activations(to_input(part, compute.memory_format).requires_grad_(True))
        activation = _activation(activations, group)
        similarity = (_features(activations) * means[classes.to(means.device)]).sum()
        (gradient,) = torch.autograd.grad(similarity, activation)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        found.append((weights * activation).sum(dim=1).relu().detach().float())
    return torch.cat(found).cpu()


def upsampled(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Maps for pictures: ``(N, h, w)`` -> float32 ``(N, size, size)``, bilinear, each from its least 0 to its most 1.

    A constant map shows nothing, and becomes 0.
    """
    large = F.interpolate(maps[:, None].float(), size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    least, most = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    return torch.where(most > least, (large - least) / (most - least), 0.0)


def rank_agreement(maps: torch.Tensor, others: torch.Tensor) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation between two maps of each image, over places.

    Args:
        maps, others: ``(N, h, w)``.

    Returns:
        float64 ``(N,)`` in -1..1; ties share their mean rank, and a constant map agrees with nothing: 0.

    Raises:
        ValueError: the shapes differ.
    """
    if maps.shape != others.shape:
        raise ValueError(f"maps of shapes {tuple(maps.shape)} and {tuple(others.shape)} cannot be compared")
    one, other = (stats.rankdata(each.flatten(1).numpy(), axis=1) for each in (maps, others))
    one, other = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (one, other))
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    found: npt.NDArray[np.float64] = (one * other).sum(axis=1) / np.where(scale > 0, scale, 1.0)
    return found


def compare_maps(
    starts: Mapping[str, FeatureStart],
    images: ImageSet,
    *,
    pictured: Sequence[str],
    seed: int,
    compute: Compute,
    trained: str = "pretrained",
    method: Method = "attention",
) -> Saliency:
    """Maps of newborns of every start, on the same images with the same seeds. Nothing is trained, nothing chosen.

    Args:
        starts: by name; must hold SCRATCH, random newborns.
        images: at least two classes of at least two images.
        pictured: starts whose maps are kept, in this order; those that are not there are left out.
        seed: of the images and of what newborns do not inherit.
        trained: name of the start that inherits a whole trained network.
    """
    draw = rng(seed, "saliency images")
    smallest = min(images.class_counts.values())
    shots = max(1, min(SUPPORT, smallest // 2))
    looked = max(1, min(IMAGES, smallest - shots))
    drawn = np.stack(
        [draw.permutation(images.indices_of(label))[: shots + looked] for label in range(images.n_classes)]
    )
    support, rows = drawn[:, :shots], drawn[:, shots:].flatten()
    labels = torch.arange(images.n_classes).repeat_interleave(looked)

    def take(rows: npt.NDArray[np.int64]) -> torch.Tensor:
        return images.images[torch.from_numpy(rows).to(images.images.device)]

    def born(start: FeatureStart, number: int) -> ConvNet:
        return start(images.n_classes, derive(seed, "newborn", number))

    def look(network: ConvNet) -> torch.Tensor:
        if method == "attention":
            return attention(network, take(rows), compute, group=group)
        return grad_cam(network, take(rows), labels, take(support), compute, group=group)

    group = deepest_group(born(starts[SCRATCH], 0), take(rows[:1]), compute)
    kept = np.sort(draw.permutation(images.n_classes)[:PICTURED]) * looked  # the first image of some classes
    maps, found = {}, {}
    for name, start in starts.items():
        count = 1 if name == trained else NEWBORNS  # that one inherits everything: its newborns are alike
        found[name] = [look(born(start, number)) for number in range(count)]
        if name in pictured:
            maps[name] = upsampled(found[name][0][torch.from_numpy(kept)], images.image_size).numpy()
    return Saliency(
        source=images.source,
        method=method,
        group=group,
        grid=found[SCRATCH][0].shape[1],
        newborns=NEWBORNS,
        pictured=tuple((images.class_names[labels[row]], int(rows[row])) for row in kept),
        pixels=take(rows[kept]).cpu().numpy(),
        maps={name: maps[name] for name in pictured if name in maps},
        agreements=_agreements(found, trained, looked),
    )


def _agreements(found: Mapping[str, Sequence[torch.Tensor]], trained: str, each: int) -> tuple[Agreement, ...]:
    """Of every start with the trained network; `each` images of a class lie together."""
    if trained not in found:
        return ()
    (goal,) = found[trained]
    elsewhere = goal.roll(each, dims=0)
    same = {n: np.mean([rank_agreement(m, goal) for m in maps], axis=0) for n, maps in found.items() if n != trained}
    other = {name: np.mean([rank_agreement(m, elsewhere) for m in found[name]], axis=0) for name in same}
    random = same[SCRATCH]
    return tuple(
        Agreement(
            name,
            estimate(values.tolist()),
            estimate(other[name].tolist()),
            None if name == SCRATCH else paired_difference(values.tolist(), random.tolist()),
        )
        for name, values in same.items()
    )


def _activation(activations: Mapping[str, torch.Tensor], group: str | None) -> torch.Tensor:
    return activations[_deepest(activations) if group is None else group]


def _deepest(activations: Mapping[str, torch.Tensor]) -> str:
    """The deepest group that tells enough places apart."""
    names = [name for name, activation in activations.items() if min(activation.shape[2:]) >= PLACES]
    return names[-1] if names else next(iter(activations))


def _features(activations: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Unit-length ``(B, C_last)``."""
    return F.normalize(list(activations.values())[-1].mean(dim=(2, 3)), dim=1)
