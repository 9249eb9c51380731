"""Evidence: what a learngene is worth on classes that nothing before has seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gtl.config import Config
from gtl.data.images import ImageSet
from gtl.data.request import DataRequest
from gtl.data.sources import load
from gtl.errors import LearngeneError
from gtl.fewshot import (
    SCRATCH,
    Advance,
    FeatureStart,
    InstinctResult,
    Rates,
    Run,
    StartResult,
    choose_rates,
    compare_starts,
    instinct,
    run_here,
)
from gtl.learngene.artifact import Learngene
from gtl.learngene.opponents import entrants
from gtl.learngene.setting import Setting, cost
from gtl.life import World
from gtl.saliency import Saliency, compare_maps
from gtl.seeds import derive
from gtl.versions import versions

STARTS = (SCRATCH, "pretrained", "one-shot", "learngene")
INSTINCT_EPISODES = 400
LEARNGENE = "learngene"
PICTURED = (SCRATCH, "one-shot", LEARNGENE, "pretrained")  # whose saliency maps are drawn, from left to right


@dataclass(frozen=True)
class Evidence:
    """Few-shot results of several starts on one data source.

    Attributes:
        learngene: digest of the gene that it is about.
        data: source and hash of its class lists.
        results: descendants, one entry per start and number of shots.
        instincts: untrained newborns, one entry per start and method.
        starts: what each start inherits, in words and numbers.
        images: training images behind the pretrained and the evolved starts; None: not known, as of a checkpoint.
        protocol: how every descendant was trained and tested; versions; seed.
        saliency: where newborns look, if random ones and the learngene's are among them. Its maps are no part of the JSON.
    """

    learngene: str
    data: dict[str, str]
    results: list[StartResult]
    instincts: list[InstinctResult]
    starts: dict[str, dict[str, Any]]
    images: int | None
    protocol: dict[str, Any]
    saliency: Saliency | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain form: one JSON document."""
        looks = {} if self.saliency is None else {"saliency": self.saliency.to_json()}
        return {
            "learngene": self.learngene,
            "data": self.data,
            "images": self.images,
            "protocol": self.protocol,
            "starts": self.starts,
            "descendants": [result.to_json() for result in self.results],
            "instinct": [result.to_json() for result in self.instincts],
            **looks,
        }


def config_of(learngene: Learngene) -> Config:
    """The configuration that a learngene was evolved with (its data root is not recorded).

    Raises:
        LearngeneError: the learngene carries none.
    """
    try:
        return Config.model_validate_json(json.dumps(learngene.provenance["config"]))
    except (KeyError, ValueError) as error:
        raise LearngeneError(f"this learngene does not carry the configuration that made it ({error})") from None


@dataclass(frozen=True)
class Bench:
    """Starts made ready to be compared: references trained, before any novel image is learned from.

    Attributes:
        world: of the configuration that the gene was evolved with; references come from its train and validation classes.
        starts, about: by name, and what each inherits (`gtl.learngene.opponents`).
        images: training images that the learngene cost; None: not known.
        learngene: digest of the gene.
        run: how and where trials run.
    """

    world: World
    starts: dict[str, FeatureStart]
    about: dict[str, dict[str, Any]]
    images: int | None
    learngene: str
    run: Run = run_here
    _rates: dict[str, Rates] = field(default_factory=dict, init=False, compare=False)  # by digest of validation images

    @classmethod
    def prepare(
        cls, learngene: Learngene, world: World, names: Sequence[str], advance: Advance, run: Run = run_here
    ) -> Bench:
        """Train what must be trained, on train and validation classes."""
        found = entrants(Setting(learngene, world, advance, run), names)
        starts = {entrant.name: entrant.start for entrant in found}
        about = {entrant.name: entrant.to_json() for entrant in found}
        return cls(world, starts, about, cost(learngene), learngene.digest, run)

    def rates(self, val: ImageSet, advance: Advance) -> Rates:
        """Learning rate of every start and number of shots, chosen once on these validation classes.

        Raises:
            DataError: a class has too few images for the shots.
        """
        if val.digest not in self._rates:
            section, seed = self.world.config.fewshot, derive(self.world.config.seed, "fewshot")
            found = choose_rates(self.starts, val, section, seed, self.world.compute, advance=advance, run=self.run)
            self._rates[val.digest] = found
        return self._rates[val.digest]

    def evidence(self, request: DataRequest, advance: Advance, val: ImageSet | None = None) -> Evidence:
        """Compare the starts on the novel classes of a source.

        Args:
            val: validation classes of that source, which learning rates are chosen on: what suits one kind of images may
                be ten times too little for another. None: those of the data that the gene was evolved on.

        Raises:
            DataError: the source has no novel classes, or too few images for the protocol.
            NovelClassesError: `val` holds novel classes.
        """
        val = self.world.val if val is None else val
        rates = self.rates(val, advance)
        splits = load(request, ("novel",))
        novel, section, compute = splits["novel"], self.world.config.fewshot, self.world.compute
        seed = derive(self.world.config.seed, "fewshot", request.source)
        smallest = min(novel.class_counts.values())
        n_shot = max(1, min(5, smallest // 2))
        instincts = instinct(
            self.starts,
            novel,
            n_way=min(5, novel.n_classes),
            n_shot=n_shot,
            n_query=max(1, min(15, smallest - n_shot)),
            episodes=INSTINCT_EPISODES,
            seed=seed,
            compute=compute,
        )
        saliency = None
        if {SCRATCH, LEARNGENE} <= self.starts.keys():
            advance("saliency of newborns")
            looked = {name: self.starts[name] for name in PICTURED if name in self.starts}
            saliency = compare_maps(looked, novel, pictured=PICTURED, seed=seed, compute=compute)
        results = compare_starts(self.starts, novel, section, rates, seed, compute, advance=advance, run=self.run)
        data = {"source": request.source, "classes": splits.digest}
        protocol = self._protocol(val)
        return Evidence(self.learngene, data, results, instincts, self.about, self.images, protocol, saliency)

    def _protocol(self, val: ImageSet) -> dict[str, Any]:
        section = self.world.config.fewshot
        return {
            "steps": section.steps,
            "batch_size": section.training.batch_size,
            "test_images": section.test_images,
            "seeds": section.seeds,
            "learning_rates": list(section.learning_rates),
            "rates_chosen_on": {"source": val.source, "classes": val.n_classes},
            "seed": self.world.config.seed,
            "versions": versions(self.world.compute),
            "threads": getattr(self.run, "threads", torch.get_num_threads()),  # of each process that trained
        }
