"""HKT: hereditary knowledge transfer from a trained parent to a compact child, while the child learns.

Tchenko, Mohr, Hadj-Abdelkader, Tabia (arXiv 2508.09743) and their LePoKet (arXiv 2609.16637). At a *tap* the child's
features z_C and the parent's z_P become one, ``M(z_C, T(E(z_P)))`` (LePoKet, equation 2):

* Extraction E takes the parent's features behind one of its stages;
* Transfer T brings them into the child's shape: a linear map of channels, learned, and a resize, each only where needed;
* Mixture M fuses the two (`gtl.transfer.mixers`).

It works in both directions. The child's own head answers from what its later stages make of the fused features, and the
parent's frozen head from what the parent's later stages make of the child's features fused into its own. Three losses are
summed: of the child alone, of the child with the parent's features (``mixed``), of the parent with the child's (``parent``).
All of it is dropped in the end: what is left is the child.

The released code differs, and `released` reproduces it (github.com/christian-tchenko/HKT-ResNet, CIFAR-10 trainer): the
parent stays in training mode, so that its norms use the batch's statistics and their running ones drift; gradients are
computed for its weights and thrown away; and child and parent each run twice a step, so that the child's running statistics
move twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gtl.errors import ConfigError
from gtl.models.base import POOLED, Stage
from gtl.phenotype import frozen
from gtl.seeds import derive
from gtl.transfer.mixers import ChannelMap, make_mixer

CHILD, MIXED, PARENT = "child", "mixed", "parent"
PATHS = (CHILD, MIXED, PARENT)

# Number of a tap, what a network has there -> the fused features that it goes on with.
Fuse = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Tap:
    """Where features meet: behind a stage of the child and one of the parent, by name."""

    child: str
    parent: str

    @classmethod
    def parse(cls, text: str) -> Tap:
        """``conv4`` (both have it) or ``conv4=stage2`` (the child's, the parent's)."""
        child, _, parent = text.partition("=")
        return cls(child.strip(), (parent or child).strip())


class Alignment(nn.Module):
    """Transfer: features of one network in the shape of the other's; without parameters where only the size differs.

    Args:
        source, target: shapes ``(C,)`` or ``(C, H, W)``. Fewer places are averages of more, more are interpolated; channels
            are mapped linearly, by a matrix that begins semi-orthogonal and is learned.
        generator: draws the matrix.
    """

    def __init__(self, source: Sequence[int], target: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self._size = None if source[1:] == target[1:] else tuple(target[1:])
        self._shrinks = all(have >= want for have, want in zip(source[1:], target[1:], strict=True))
        self.channels: ChannelMap | None = None
        if source[0] != target[0]:
            weight = nn.init.orthogonal_(torch.empty(target[0], source[0]), generator=generator)
            self.channels = ChannelMap(source[0], target[0], weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, *source)`` -> ``(B, *target)``; the same tensor if the shapes are equal."""
        if self._size is not None:
            resize: Any = F.adaptive_avg_pool2d if self._shrinks else _enlarged
            x = resize(x, self._size)
        return x if self.channels is None else self.channels(x)


def _enlarged(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def stages_of(network: nn.Module) -> Mapping[str, Stage]:
    """The way from images to what the head reads, by name and in order.

    Raises:
        ConfigError: the network does not say.
    """
    stages = getattr(network, "stages", None)
    if stages is None or not isinstance(getattr(network, "head", None), nn.Module):
        raise ConfigError(
            f"{type(network).__name__} does not say where it can be tapped; give it a module `head` and a method `stages` "
            "that returns its steps from images to what the head reads, by name (docs/transfer.md)"
        )
    found: Mapping[str, Stage] = stages()
    return found


class HKT(nn.Module):
    """A child and what it learns with, as one network for `gtl.training.train`. The child is trained in place.

    In training mode it gives the logits of all paths, ``(paths, B, classes)``, and `loss` takes them; in evaluation mode
    it is the child, ``(B, classes)``. Its parameters are the child's and those of the transfer; the parent is no part of
    them and of no state dict.

    Cost of a step: the child once and the parent once, forward; then again only what follows the first tap, of the child for
    ``mixed`` and of the parent for ``parent``. With the tap ``pooled`` alone these are just the heads. The parent's first
    pass is without gradients. What runs again leaves the child's running statistics alone: they are of what the child sees
    when it is alone.

    Args:
        child: learns; a ConvNet or another network that `stages_of` knows.
        parent: teaches. It is copied: in evaluation mode, frozen, its norms folded into its convolutions.
        image_size: pixels of the images, height and width.
        taps: as `Tap.parse` reads them, in any order; the child's and the parent's stages must have the same order.
        mixer: one of `gtl.transfer.mixers.STRENGTHS`.
        strength: of the mixer; None: that of the released code.
        paths: whose losses are summed; the child's head must learn from one of them.
        released: do as the released code does (see the module).
        label_smoothing: of the losses.
        seed: of what the transfer begins with.

    Raises:
        ConfigError: no such mixer, tap or path; networks for other images; a parent with a head for other classes.
    """

    def __init__(
        self,
        child: nn.Module,
        parent: nn.Module,
        *,
        image_size: int,
        taps: Sequence[str] = (POOLED,),
        mixer: str = "genetic",
        strength: float | None = None,
        paths: Sequence[str] = PATHS,
        released: bool = False,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_paths(paths)
        shapes, classes = _shapes(CHILD, child, image_size)
        given, known = _shapes(PARENT, parent, image_size)
        self.taps = _matched(taps, list(shapes), list(given))
        if PARENT in paths and known != classes:
            raise ConfigError(
                f"the parent's head has {known} classes, the child's {classes}: fine-tune the parent on the child's classes "
                f"first, or leave {PARENT!r} out of the paths"
            )
        self.child, self.paths, self.released = child, tuple(p for p in PATHS if p in paths), released
        taught = copy.deepcopy(parent).requires_grad_(True).train() if released else frozen(parent)
        self._parents = (taught,)  # in a tuple, so that it is no submodule
        self._label_smoothing = label_smoothing
        pairs = [(shapes[tap.child], given[tap.parent]) for tap in self.taps]
        for (own, other), tap in zip(pairs, self.taps, strict=True):
            if len(own) != len(other):
                raise ConfigError(
                    f"tap {tap.child}={tap.parent}: the child's features have the shape {own}, the parent's {other}; tap "
                    "maps with maps, and what is pooled with what is pooled"
                )
        self.to_child, self.child_mixers = nn.ModuleList(), nn.ModuleList()
        self.to_parent, self.parent_mixers = nn.ModuleList(), nn.ModuleList()
        # each direction has a seed of its own, so that switching one off leaves what the other draws
        if MIXED in paths:
            generator = torch.Generator().manual_seed(derive(seed, MIXED))
            self.to_child.extend(Alignment(other, own, generator) for own, other in pairs)
            self.child_mixers.extend(make_mixer(mixer, strength, own[0], generator) for own, _ in pairs)
        if PARENT in paths:
            generator = torch.Generator().manual_seed(derive(seed, PARENT))
            self.to_parent.extend(Alignment(own, other, generator) for own, other in pairs)
            self.parent_mixers.extend(make_mixer(mixer, strength, other[0], generator) for _, other in pairs)
        self.to(next(child.parameters()).device)

    @property
    def parent(self) -> nn.Module:
        """The copy of the parent that teaches."""
        return self._parents[0]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> HKT:
        """Move the parent along with the rest; it is no submodule, so that it never is in training mode or learns."""
        self.parent._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)`` -> logits ``(paths, B, classes)``; in evaluation mode the child's ``(B, classes)``."""
        if not self.training:
            alone: torch.Tensor = self.child(inputs)
            return alone
        at_child, at_parent = [tap.child for tap in self.taps], [tap.parent for tap in self.taps]
        own, logits = _extract(self.child, inputs, at_child)
        found = {CHILD: logits}
        given: dict[str, torch.Tensor] = {}
        if self.paths != (CHILD,):
            with nullcontext() if self.released else torch.no_grad():
                given, _ = _extract(self.parent, inputs, at_parent)
        if MIXED in self.paths:
            inherited = [align(given[name]) for align, name in zip(self.to_child, at_parent, strict=True)]
            with _statistics_kept(self.child, kept=not self.released):
                found[MIXED] = self._again(
                    self.child, at_child, own, inputs, lambda number, x: self.child_mixers[number](x, inherited[number])
                )
        if PARENT in self.paths:
            asking = [align(own[name]) for align, name in zip(self.to_parent, at_child, strict=True)]
            found[PARENT] = self._again(
                self.parent, at_parent, given, inputs, lambda number, x: self.parent_mixers[number](asking[number], x)
            )
        return torch.stack([found[path].float() for path in self.paths])

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Sum over the paths of their mean cross-entropies.

        Args:
            logits: float32 ``(paths, B, classes)``.
            labels: int64 ``(B,)``.
            inputs: not used.
        """
        count = len(self.paths)
        mean = F.cross_entropy(logits.flatten(0, 1), labels.repeat(count), label_smoothing=self._label_smoothing)
        return count * mean

    def _again(
        self,
        network: nn.Module,
        taps: Sequence[str],
        features: Mapping[str, torch.Tensor],
        inputs: torch.Tensor,
        fuse: Fuse,
    ) -> torch.Tensor:
        """Logits of a network that goes on from its first tap with fused features; as released, from the images."""
        stages = stages_of(network)
        names, x = list(stages), inputs
        if not self.released:
            names, x = names[names.index(taps[0]) + 1 :], fuse(0, features[taps[0]])
        for name in names:
            x = stages[name](x)
            if name in taps:
                x = fuse(taps.index(name), x)
        logits: torch.Tensor = network.get_submodule("head")(x)
        return logits


def _extract(
    network: nn.Module, inputs: torch.Tensor, taps: Sequence[str]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Features behind the tapped stages, and logits."""
    found, x = {}, inputs
    for name, stage in stages_of(network).items():
        x = stage(x)
        if name in taps:
            found[name] = x
    return found, network.get_submodule("head")(x)


@contextmanager
def _statistics_kept(network: nn.Module, *, kept: bool) -> Iterator[None]:
    """Norms use the batch's statistics, as ever in training, but do not remember them."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms if kept else ():
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _check_paths(paths: Sequence[str]) -> None:
    unknown = [path for path in paths if path not in PATHS]
    if unknown:
        raise ConfigError(f"there is no path {unknown[0]!r}; choose of {', '.join(PATHS)}")
    if not {CHILD, MIXED} & set(paths):
        raise ConfigError(f"paths {tuple(paths)} never ask the child's head, so it would not learn; add {CHILD!r}")


def _matched(texts: Sequence[str], child: Sequence[str], parent: Sequence[str]) -> tuple[Tap, ...]:
    """The taps in the child's order.

    Raises:
        ConfigError: a stage that a network does not have, or other orders.
    """
    taps = [Tap.parse(text) for text in texts]
    for tap in taps:
        for whose, name, stages in ((CHILD, tap.child, child), (PARENT, tap.parent, parent)):
            if name not in stages:
                raise ConfigError(
                    f"tap {name!r}: the {whose} has no such stage; it has {', '.join(stages)} (where names differ, write "
                    "the child's and the parent's, as in conv4=stage2)"
                )
    taps.sort(key=lambda tap: child.index(tap.child))
    for places in ([child.index(tap.child) for tap in taps], [parent.index(tap.parent) for tap in taps]):
        if not places or any(after <= before for before, after in pairwise(places)):
            raise ConfigError(
                f"taps {', '.join(texts) or 'none'}: give at least one, each stage once, and the parent's in the order of "
                "the child's"
            )
    return tuple(taps)


@torch.no_grad()
def _shapes(whose: str, network: nn.Module, image_size: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shape behind every stage, without the batch, and the number of classes.

    Raises:
        ConfigError: the network is not for colour images of this size.
    """
    parameter = next(network.parameters())
    images = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        found, logits = _extract(network, images, list(stages_of(network)))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the {whose}, a {type(network).__name__}, cannot take images of 3 x {image_size} x {image_size} ({reason}); both "
            "networks see the same images: give a network for these, or images for it"
        ) from None
    finally:
        for module, mode in modes.items():
            module.training = mode
    return {name: tuple(x.shape[1:]) for name, x in found.items()}, logits.shape[1]
