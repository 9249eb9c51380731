"""What opponents of a learngene are made from, and what they are in a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gtl.comparison import PRETRAINED
from gtl.errors import DataError
from gtl.fewshot import Advance, FeatureStart, Rates, Run, choose_rates, run_here
from gtl.genotype import Genotype
from gtl.learngene.artifact import Learngene
from gtl.learngene.baselines import one_shots, pretrained_tensors
from gtl.learngene.oneshot import OneShot
from gtl.learngene.starts import Initialisation, gene_start
from gtl.life import World, norm_fitted
from gtl.seeds import derive
from gtl.surgery import GeneTensors


@dataclass(frozen=True)
class Entrant:
    """One start of a comparison.

    Attributes:
        name: in tables.
        start: how its newborns are initialised.
        share: of the convolution parameters that are inherited.
        images: training images behind it; None: nobody knows.
        about: more to say, as JSON: kept channels, method, allocation.
    """

    name: str
    start: FeatureStart
    share: float
    images: int | None
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What it inherits, in plain form."""
        return {"share": self.share, "images": self.images, **self.about}


@dataclass(frozen=True, eq=False)
class Setting:
    """What opponents are made from: a learngene, the world that it evolved in, and what several opponents share.

    Attributes:
        say: called with a line now and then.
        run: how and where trials run that an opponent needs beforehand.
    """

    learngene: Learngene
    world: World
    say: Advance = lambda text: None
    run: Run = run_here

    @property
    def images(self) -> int:
        """Training images that the learngene cost, its ancestor included.

        Raises:
            DataError: nobody knows, since the ancestor came from a checkpoint.
        """
        images = cost(self.learngene)
        if self.world.config.founders.checkpoint is not None or images is None:
            raise DataError(
                "what this gene cost in training images is not known, since its ancestor was a checkpoint or it carries no "
                "record: no reference can be trained as long; compare --starts scratch,learngene"
            )
        return images

    @cached_property
    def reference(self) -> GeneTensors:
        """A whole network trained on as many images as the learngene cost."""
        return pretrained_tensors(self.world, self.images, self.say)

    @cached_property
    def whole(self) -> Initialisation:
        """Full transfer: all of the reference is inherited."""
        return gene_start(self.world.host, self.world.layout.full(), self.reference)

    @cached_property
    def rates_of_whole(self) -> Rates:
        """Learning rates of full transfer, chosen on validation classes; trials that `pretrained` has, too."""
        world = self.world
        seed = derive(world.config.seed, "fewshot")
        starts = {PRETRAINED: self.whole}
        return choose_rates(
            starts, world.val, world.config.fewshot, seed, world.compute, advance=self.say, run=self.run
        )

    @cached_property
    def one_shots(self) -> Sequence[OneShot]:
        """One-shot genes of the learngene's size cut from the reference, the fittest first."""
        return one_shots(self.world, self.reference, self.learngene.genotype)

    def gene(self, name: str, genotype: Genotype, tensors: GeneTensors, images: int | None, **about: Any) -> Entrant:
        """An entrant that inherits a circuit."""
        share = self.world.layout.circuit_share(genotype.counts)
        start = gene_start(self.world.host, genotype, tensors)
        return Entrant(name, start, share, images, {"counts": list(genotype.counts.values()), **about})

    def fitted(self, tensors: GeneTensors, genotype: Genotype) -> GeneTensors:
        """The circuit with its norms' statistics measured on itself."""
        return norm_fitted(tensors, genotype, self.world, derive(self.world.config.seed, "opponents"))


def cost(learngene: Learngene) -> int | None:
    """Training images that a learngene cost; None: not known, as of one that was cut from a checkpoint."""
    total = learngene.provenance.get("images", {}).get("total")
    return None if total is None else int(total)
