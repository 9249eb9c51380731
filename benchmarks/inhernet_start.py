"""What the start of an InherNet is worth: exact, or at 1/H as released; by activations; with zero-sum experts.

python benchmarks/inhernet_start.py [--data DATA] [--seeds 5] [--out RECORD.json]    DATA: CIFAR-FS; glyphs without
python benchmarks/inhernet_start.py --quick                        seconds, to see whether it runs

Each seed draws images of the train classes to train on, to choose learning rates on and to test on, and trains a network.
All starts inherit from that network, its classifier too, with the same ranks, and are trained on the same images with the
same batches; each has its own learning rate. Accuracies are of the same classes' other images: at step 0, there also with the
norms' statistics estimated anew (which takes a common factor of a layer's outputs out), and at the end. Differences to the
released start are paired by seed. Prints a line of JSON for every start and moment.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from figure import Figure, circumstances, rounded, to_line, typed

from gtl import models
from gtl.config import ComputeSection, TrainingSection
from gtl.data.images import ImageSet
from gtl.data.request import DataRequest
from gtl.data.sources import load
from gtl.seeds import derive, rng
from gtl.stats import paired_difference
from gtl.training import Compute, accuracy, pick_compute, reestimate_norms, train
from gtl.transfer import InherNetOptions, InherNetReport, inhernet

SEED = 0
RELEASED = "released 1/H"
LOOKED_AT = 1024  # images behind an activation-weighted decomposition
BEGIN, REFITTED, END = "step 0", "step 0, norms estimated anew", "the end"
MOMENTS = (BEGIN, REFITTED, END)


@dataclass(frozen=True)
class Start:
    """How inheritors begin. Ranks and experts are the same for all.

    Attributes:
        released: at 1 / experts of the outputs.
        weighted: axes by activations.
        deviation: of the experts, summing to zero.
    """

    released: bool = False
    weighted: bool = False
    deviation: float = 0.0


STARTS = {
    RELEASED: Start(released=True),
    "exact": Start(),
    "activation-weighted": Start(weighted=True),
    "zero-sum": Start(deviation=0.005),
    "activation-weighted, zero-sum": Start(weighted=True, deviation=0.005),
}


@dataclass(frozen=True)
class Protocol:
    """How much of everything.

    Attributes:
        request: the data.
        images: of a class: to train on, to choose on, to test on.
        width: of the VGG11.
        epochs: of the source's training.
        steps: of every inheritor's.
        rates: learning rates to choose from.
        budget: share of the source's parameters.
        experts: of every layer.
        batch: images of a step.
    """

    request: DataRequest
    images: tuple[int, int, int]
    width: float
    epochs: int
    steps: int
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    budget: float = 0.2
    experts: int = 3
    batch: int = 128


GLYPHS = Protocol(DataRequest("glyphs", images_per_class=60), (40, 8, 12), 0.25, 20, 200)
QUICK = Protocol(
    DataRequest("glyphs", image_size=28, images_per_class=14, train_classes=4, val_classes=4, novel_classes=4),
    (8, 2, 4), 0.0625, 2, 2, (0.01, 0.03), 0.4, batch=16,
)  # fmt: skip


def cifar_fs(root: str) -> Protocol:
    """Of CIFAR-FS in a folder."""
    return Protocol(DataRequest("cifar_fs", root=root), (400, 50, 100), 0.25, 15, 400)


@dataclass(frozen=True)
class Outcome:
    """What came of one start from one source.

    Attributes:
        accuracies: at each of MOMENTS.
        rate: learning rate that was chosen.
        report: what was inherited.
    """

    accuracies: dict[str, float]
    rate: float
    report: InherNetReport


@dataclass(frozen=True, eq=False)
class Bench:
    """What all seeds share."""

    protocol: Protocol
    images: ImageSet
    compute: Compute

    def seed(self, number: int) -> tuple[float, dict[str, Outcome]]:
        """Accuracy of a source, and what came of every start from it."""
        protocol, compute = self.protocol, self.compute
        fit, choose, test = self.images.draw_per_class(rng(SEED, "inhernet", number), *protocol.images)
        source = models.vgg11(fit.n_classes, protocol.width, seed=derive(SEED, "source", number))
        recipe = TrainingSection(batch_size=protocol.batch)
        steps = protocol.epochs * (len(fit.labels) // min(protocol.batch, len(fit.labels)))
        train(source, fit, recipe, steps=steps, seed=derive(SEED, "source training", number), compute=compute)
        whole = accuracy(source, test, compute)
        source.to("cpu")
        _, report = inhernet(source, InherNetOptions(budget=protocol.budget, experts=protocol.experts))
        # what the budget leaves dense, all leave dense: at its full rank
        ranks = {x.layer: x.rank or x.full_rank for x in report.layers if x.rank or x.dense.startswith("rank")}
        looked = fit.images[torch.from_numpy(rng(SEED, "looked at", number).permutation(len(fit.labels))[:LOOKED_AT])]
        found = {}
        for name, start in STARTS.items():
            options = InherNetOptions(
                rank=ranks, experts=protocol.experts, released_scaling=start.released, deviation=start.deviation
            )
            born, report = inhernet(
                source, options, images=looked if start.weighted else None, seed=derive(SEED, "experts", number)
            )
            refitted = copy.deepcopy(born)
            reestimate_norms(refitted, looked, compute)
            trained = {rate: self._trained(born, fit, rate, number) for rate in protocol.rates}
            best = max(trained, key=lambda rate: accuracy(trained[rate], choose, compute))
            reached = (accuracy(network, test, compute) for network in (born, refitted, trained[best]))
            found[name] = Outcome(dict(zip(MOMENTS, reached, strict=True)), best, report)
            print(f"seed {number}, {name}: {found[name].accuracies}, rate {best}", file=sys.stderr, flush=True)
        return whole, found

    def _trained(self, born: torch.nn.Module, fit: ImageSet, rate: float, number: int) -> torch.nn.Module:
        network, seed = copy.deepcopy(born), derive(SEED, "fine-tuning", number)
        recipe = TrainingSection(learning_rate=rate, batch_size=self.protocol.batch)
        train(network, fit, recipe, steps=self.protocol.steps, seed=seed, compute=self.compute)
        return network


def figures(bench: Bench, seeds: int) -> Iterator[Figure]:
    """Accuracy of every start at both moments, and its difference to the released one."""
    sources, outcomes = zip(*(bench.seed(number) for number in range(seeds)), strict=True)
    source, unit = bench.protocol.request.source, "% of the same classes' other images"
    yield Figure(f"{source}: the network inherited from", [100 * each for each in sources], unit)
    for name in STARTS:
        each = [outcome[name] for outcome in outcomes]
        for moment in MOMENTS:
            ours, theirs = (
                [100 * outcome[start].accuracies[moment] for outcome in outcomes] for start in (name, RELEASED)
            )
            about: dict[str, Any] = {
                "samples": [rounded(value) for value in ours],
                "parameters": {"share": rounded(each[0].report.share), "count": each[0].report.after},
            }
            if moment == END:
                about["learning rates"] = [outcome.rate for outcome in each]
            if name != RELEASED:
                difference = paired_difference(ours, theirs)
                about |= {
                    f"difference to {RELEASED}, points": rounded(difference.mean),
                    "95 % interval": [rounded(difference.low), rounded(difference.high)],
                }
            yield Figure(f"{source}: {name}, {moment}", ours, unit, notes=about)


def main(words: Sequence[str] | None = None) -> int:
    """A line of JSON for every start and moment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="where CIFAR-FS lies; glyphs without")
    parser.add_argument("--seeds", type=int, default=5, help="networks that are inherited from, at least 2")
    parser.add_argument("--device", default="auto", help="to train on")
    parser.add_argument("--quick", action="store_true", help="tiny networks on a few glyphs, two seeds")
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args(words)
    protocol, seeds = cifar_fs(given.data) if given.data else GLYPHS, given.seeds
    if given.quick:
        protocol, seeds = QUICK, 2
    if seeds < 2:
        parser.error("an interval needs at least two seeds; give --seeds 2 or more")
    compute = pick_compute(ComputeSection(device=given.device))
    bench = Bench(protocol, load(protocol.request, ("train",))["train"], compute)
    shown = {name: value for name, value in vars(protocol).items() if name != "request"}
    record: dict[str, Any] = {
        "command": typed("benchmarks/inhernet_start.py", sys.argv[1:] if words is None else words),
        **circumstances(), "precision": compute.words, "seed": SEED, "protocol": shown, "figures": [],
    }  # fmt: skip
    for figure in figures(bench, seeds):
        print(to_line(figure), flush=True)
        record["figures"].append(figure.to_json())
    if given.out:
        given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
