"""HKT against its released behaviour: what each defect of the released code costs, with the same data and seeds.

python benchmarks/hkt_defects.py [--seeds 5] [--out RECORD.json]               glyphs
python benchmarks/hkt_defects.py --data DATA [--seeds 5] [--out RECORD.json]   DATA: CIFAR-FS; glyphs, too
python benchmarks/hkt_defects.py --quick                                       seconds, to see whether it runs

A seed's parent, a whole VGG11, and its children, VGG11s of half the width, learn the same train classes from the same images
and are tested on others of these classes. All children of a seed begin with the same weights and see the same batches. The
defects, as found in the released code (github.com/christian-tchenko/HKT-ResNet):

* the parent stays in training mode: its norms take the batch's statistics, and its running ones drift;
* child and parent run twice a step;
* the model is chosen by its accuracy on the test images;
* features meet in one place only;
* test images are normalised with other means and deviations than training images.

Differences are paired by seed, and their intervals are Student's over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from figure import Figure, circumstances, rounded, to_line, typed
from torch import nn

from gtl.config import ComputeSection, TrainingSection
from gtl.data.augment import MEAN, STD
from gtl.data.images import ImageSet
from gtl.data.request import DataRequest
from gtl.data.sources import load
from gtl.models import ConvNet, build, spec_of
from gtl.seeds import derive, rng
from gtl.stats import estimate
from gtl.training import Compute, Progress, accuracy, hits, pick_compute, train
from gtl.transfer.hkt import HKT

# What the released code subtracts and divides by: of ImageNet when it trains, of CIFAR-10 when it tests.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
REPEATS = 3  # of a timing; the fastest counts


@dataclass(frozen=True)
class Setup:
    """One source and how long all learn on it.

    Attributes:
        request: whose train classes are learned.
        fit, test: images a class.
        width: of the parent, as a factor on VGG11's channels; a child has half.
        parent_steps, steps: optimiser steps of parent and child.
        recipe: of both.
        taps: where else features may meet.
        timed: steps that are timed.
    """

    request: DataRequest
    fit: int
    test: int
    width: float = 0.25
    parent_steps: int = 1500
    steps: int = 1500
    recipe: TrainingSection = field(default_factory=TrainingSection)
    taps: tuple[str, ...] = ("conv4", "conv6", "pooled")
    timed: int = 20


GLYPHS = Setup(
    DataRequest("glyphs", images_per_class=80, train_classes=40, val_classes=5, novel_classes=5), 50, 30,
    parent_steps=400, steps=400,
)  # fmt: skip
CIFAR_FS = Setup(DataRequest("cifar_fs"), 400, 200)
QUICK = replace(
    GLYPHS,
    request=DataRequest("glyphs", image_size=28, images_per_class=14, train_classes=4, val_classes=2, novel_classes=2),
    fit=8, test=6, width=0.0625, parent_steps=6, steps=6, timed=1, recipe=TrainingSection(batch_size=16, crop_padding=2),
)  # fmt: skip


class OtherNorm(nn.Module):
    """A network that is tested as the released code tests: images normalised otherwise than when it learned."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        (mean, std), (other_mean, other_std) = (torch.tensor(each).view(2, 3, 1, 1) for each in (IMAGENET, CIFAR))
        self.register_buffer("scale", std / other_std)
        self.register_buffer("shift", mean - other_mean * std / other_std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs as gtl normalises them, seen through the other normalisation."""
        pixels = (x * STD + MEAN) * self.scale + self.shift
        logits: torch.Tensor = self.network((pixels - MEAN) / STD)
        return logits


@dataclass(frozen=True)
class Outcome:
    """What one seed gave; accuracies as shares.

    Attributes:
        plain, ours, released, tapped: of children alone, with HKT, as released, and with more taps.
        parent, drifted: of the parent, before and after it taught as released.
        other_norm: of our child, tested with the other normalisation.
        optimism: accuracy on the half of the test images that chose our child's best epoch, over that on the other half.
        seconds: of a step, ours and as released.
    """

    plain: float
    ours: float
    released: float
    tapped: float
    parent: float
    drifted: float
    other_norm: float
    optimism: float
    seconds: tuple[float, float]


def outcome(setup: Setup, images: ImageSet, seed: int, compute: Compute) -> Outcome:
    """Train a parent and its children, and test them."""
    fit, test = images.draw_per_class(rng(seed, "hkt defects"), setup.fit, setup.test)

    def whole(width: float, who: str) -> ConvNet:
        return build(spec_of("vgg11", num_classes=fit.n_classes, width=width), derive(seed, who))

    parent = whole(setup.width, "parent")
    train(parent, fit, setup.recipe, steps=setup.parent_steps, seed=derive(seed, "parent"), compute=compute)
    parent.to("cpu").eval()
    known = accuracy(copy.deepcopy(parent), test, compute)
    halves = torch.arange(len(test.labels)) % 2 == 0
    epochs: list[torch.Tensor] = []

    def taught(**options: Any) -> HKT:
        child = whole(setup.width / 2, "child")
        return HKT(child, parent, image_size=fit.image_size, seed=derive(seed, "transfer"), **options)

    def learned(network: nn.Module, watched: bool = False, steps: int = setup.steps) -> float:
        child = network.child if isinstance(network, HKT) else network

        def look(progress: Progress) -> None:
            epochs.append(hits(child, test, compute).cpu())

        loss = network.loss if isinstance(network, HKT) else None
        result = train(
            network, fit, setup.recipe, steps=steps, seed=derive(seed, "child"), compute=compute, loss=loss,
            on_epoch=look if watched else None,
        )  # fmt: skip
        return result.seconds

    def tested(network: nn.Module, **options: Any) -> float:
        learned(network, **options)
        return accuracy(network, test, compute)

    ours, released = taught(), taught(released=True)
    reached = tested(ours, watched=True)
    as_released = tested(released)
    epochs.append(hits(ours.child, test, compute).cpu())
    chosen = max(epochs, key=lambda found: float(found[halves].double().mean()))
    seconds = tuple(
        min(learned(taught(released=how), steps=setup.timed) / setup.timed for _ in range(REPEATS))
        for how in (False, True)
    )
    return Outcome(
        plain=tested(whole(setup.width / 2, "child")),
        ours=reached,
        released=as_released,
        tapped=tested(taught(taps=setup.taps)),
        parent=known,
        drifted=accuracy(released.parent, test, compute),
        other_norm=accuracy(OtherNorm(ours.child), test, compute),
        optimism=float(chosen[halves].double().mean() - chosen[~halves].double().mean()),
        seconds=(seconds[0], seconds[1]),
    )


def figures(setup: Setup, seeds: int, compute: Compute) -> Iterator[Figure]:
    """A figure for each defect."""
    images = load(setup.request, ("train",))["train"]
    found = []
    for seed in range(seeds):
        found.append(outcome(setup, images, seed, compute))
        print(f"{setup.request.source}, seed {seed + 1} of {seeds}: {found[-1]}", file=sys.stderr, flush=True)

    def figure(name: str, points: Sequence[float], unit: str = "points", **notes: Any) -> Figure:
        mean = estimate(points)
        interval = [rounded(mean.low), rounded(mean.high)]
        about = {
            "mean": rounded(mean.mean),
            "95 % interval": interval,
            "samples": [rounded(p) for p in points],
            **notes,
        }
        return Figure(f"{setup.request.source}: {name}", points, unit, notes=about)

    def gap(name: str, one: str, other: str) -> Figure:
        pairs = [(getattr(each, one), getattr(each, other)) for each in found]
        means = {
            which: rounded(100 * sum(values) / seeds)
            for which, values in zip((one, other), zip(*pairs, strict=True), strict=True)
        }
        return figure(name, [100 * (a - b) for a, b in pairs], **{"accuracy, %": means})

    yield gap("HKT over the child alone", "ours", "plain")
    yield gap("HKT over HKT as released (parent in training mode, running statistics moved twice)", "ours", "released")
    yield gap("what the released parent loses of its own accuracy by teaching", "parent", "drifted")
    ratios = [each.seconds[1] / each.seconds[0] for each in found]
    steps = {
        name: rounded(1000 * min(each.seconds[n] for each in found)) for n, name in enumerate(("ours", "released"))
    }
    yield figure("time of a step as released, over ours", ratios, "times", **{"milliseconds": steps})
    optimism = [100 * each.optimism for each in found]
    yield figure("what choosing the epoch on test images adds to what is reported", optimism)
    yield gap("what the other normalisation of test images costs", "ours", "other_norm")
    yield gap(f"taps {', '.join(setup.taps)} over pooled alone", "tapped", "ours")


def main(words: Sequence[str] | None = None) -> int:
    """A line of JSON for every figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="where CIFAR-FS lies")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of parents and of children")
    parser.add_argument("--device", default="auto", help="to train on")
    parser.add_argument("--quick", action="store_true", help="pico networks on few glyphs")
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args(words)
    compute = pick_compute(ComputeSection(device=given.device))
    setups = [QUICK if given.quick else GLYPHS]
    if given.data is not None:
        setups.append(replace(CIFAR_FS, request=replace(CIFAR_FS.request, root=given.data)))
    if given.steps is not None:
        setups = [replace(setup, parent_steps=given.steps, steps=given.steps) for setup in setups]
    record: dict[str, Any] = {
        "command": typed("benchmarks/hkt_defects.py", sys.argv[1:] if words is None else words),
        **circumstances(), "precision": compute.words, "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if compute.device.type == "cuda" else "cpu", "figures": [],
    }  # fmt: skip
    for setup in setups:
        for figure in figures(setup, given.seeds, compute):
            print(to_line(figure), flush=True)
            record["figures"].append(figure.to_json())
            if given.out:
                given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
