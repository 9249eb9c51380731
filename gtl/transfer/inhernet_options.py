"""What is asked of an InherNet, and what is reported about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gtl.errors import ConfigError
from gtl.transfer.rank_choice import Ranks

MAX_EXPERTS = 64
Form = Literal["dense", "low-rank"]


@dataclass(frozen=True)
class InherNetOptions:
    """What kind of inheritor. Exactly one of `rank`, `energy` and `budget` says how large it is.

    Attributes:
        rank: of every layer (layers of no larger full rank stay dense), or a mapping with each layer's own.
        energy: share of its squared singular values that every layer keeps at least, above 0, up to 1. With images, the
            share of the layer's mean squared output on them.
        budget: largest share of the source network's parameters, above 0, up to 1. It is met from below: the largest energy
            that all layers can keep alike, then single ranks where they still fit.
        experts: up-projections of every layer. One expert has no gate.
        shrink: of the activations' moment towards the identity, in 0..1 (InherAct: 0.01). Used with images only.
        centred: decompose how outputs vary, not how large they are, and leave their mean to the bias, or to a norm behind the
            layer, which is to be measured anew. Not in the published code. Needs images.
        deviation: of the experts' weights from their mean, in standard deviations, summing to zero, under a gate of zeros
            (InherAct: 0.005). 0: equal experts under a random gate.
        released_scaling: outputs at 1 / experts of what they should be, as the published code starts: experts divided by
            their number under a gate whose weights sum to one. For comparisons.
        first: of the first convolution, which has few input channels and loses much. The demo makes it low-rank.
        classifier: of the last linear layer.
        head: name of the classifier, if it is not the last linear layer.
        keep_dense: names of layers that stay as they are, with ``*`` as in file names.
        force: make layers low-rank also where that saves no parameters, up to the full rank.

    Raises:
        ConfigError: a value out of range, or not exactly one of the three sizes.
    """

    rank: int | Mapping[str, int] | None = None
    energy: float | None = None
    budget: float | None = None
    experts: int = 3
    shrink: float = 0.01
    centred: bool = False
    deviation: float = 0.0
    released_scaling: bool = False
    first: Form = "dense"
    classifier: Form = "dense"
    head: str = ""
    keep_dense: Sequence[str] = ()
    force: bool = False

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("rank", "energy", "budget")}
        given = [name for name, value in sizes.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(f"give exactly one of rank, energy and budget, not {' and '.join(given) or 'none'}")
        if isinstance(self.rank, int) and self.rank < 1:
            raise ConfigError(f"rank {self.rank}: a rank is at least 1")
        for name in ("energy", "budget"):
            value = sizes[name]
            if value is not None and not 0.0 < value <= 1.0:
                raise ConfigError(f"{name} {value}: a share lies above 0 and is at most 1")
        if not 1 <= self.experts <= MAX_EXPERTS:
            raise ConfigError(f"experts {self.experts}: give 1 to {MAX_EXPERTS}")
        if not 0.0 <= self.shrink <= 1.0:
            raise ConfigError(f"shrink {self.shrink}: a share lies in 0..1")
        if not 0.0 <= self.deviation < math.inf:
            raise ConfigError(f"deviation {self.deviation}: give standard deviations, 0 or more")
        if self.deviation > 0 and self.experts == 1:
            raise ConfigError(
                "deviation: one expert has nobody to deviate from; give two or more experts, or deviation 0"
            )
        for name in ("first", "classifier"):
            if getattr(self, name) not in ("dense", "low-rank"):
                raise ConfigError(f"{name} {getattr(self, name)!r}: give dense or low-rank")

    @property
    def scale(self) -> float:
        """Of a layer's outputs at the start: 1, unless the released start is asked for."""
        return 1.0 / self.experts if self.released_scaling else 1.0


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes:
        layer: its name.
        kind: ``convolution`` or ``linear``.
        rank: that it was given; None where it stays dense.
        full_rank: the largest there could be.
        kept: share of the energy that the rank keeps, see `InherNetOptions.energy`; 1 for a dense layer.
        before, after: its parameters.
        dense: why it is dense; empty where it is not.
    """

    layer: str
    kind: str
    rank: int | None
    full_rank: int
    kept: float
    before: int
    after: int
    dense: str = ""


@dataclass(frozen=True)
class InherNetReport:
    """What an InherNet inherited.

    Attributes:
        layers: one entry per convolution and linear layer of the source.
        experts: of every inherited layer.
        before, after: parameters of the source network and of the InherNet, norms and everything else counted.
        weighted: whether axes were chosen by activations.
    """

    layers: tuple[LayerReport, ...]
    experts: int
    before: int
    after: int
    weighted: bool

    @property
    def share(self) -> float:
        """Parameters of the InherNet over those of the source."""
        return self.after / self.before

    @property
    def ranks(self) -> Ranks:
        """Ranks of the inherited layers, by name."""
        return {layer.layer: layer.rank for layer in self.layers if layer.rank is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        numbers = {"experts": self.experts, "before": self.before, "after": self.after, "share": self.share}
        return {"layers": [vars(layer) for layer in self.layers], **numbers, "weighted": self.weighted}
