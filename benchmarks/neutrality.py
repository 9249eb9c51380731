"""Whether what makes gtl fast costs accuracy: the same lives lived plainly and as gtl lives them, and what they leave.

python benchmarks/neutrality.py DATA [--seeds 5] [--out RECORD.json]       DATA: CIFAR-FS; twenty minutes on one core

A way is how training and criticism are computed. Each seed's life, 400 steps in a whole newborn, starts from the committed
quarter-width VGG11 gene, with the same host, batches and crops in every way; descendants of what is extracted are trained
(always in float32) and tested on *validation* classes. Differences to the plain way are paired by seed. A bound holds if the
interval contains zero.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from figure import Figure, circumstances, rounded, to_line

from gtl import critic, training
from gtl.config_file import changed_config
from gtl.fewshot import fine_tune
from gtl.individual import Job, ParentGene
from gtl.learngene.artifact import Learngene
from gtl.learngene.evidence import config_of
from gtl.learngene.starts import gene_start
from gtl.life import World, evaluate
from gtl.seeds import derive, rng
from gtl.stats import paired_difference
from gtl.training import Compute
from gtl.world import make_world

GENE = Path(__file__).parent.parent / "populations/cifar-fs-vgg11-quarter/learngene.safetensors"
DESCENDANTS = 2  # of each life
RATE = 0.03
LIFE = {"host": "newborn", "steps": 400, "distill": 0.0}  # whatever lives the gene itself has had
CPU = Compute(torch.device("cpu"), None)


@dataclass(frozen=True)
class Way:
    """How lives are computed.

    Attributes:
        precision: of training and criticism.
        norm_batch: images that a norm averages over at once when statistics are estimated anew.
        folds: whether critics fold norms into convolutions.
    """

    precision: torch.dtype | None
    norm_batch: int
    folds: bool


WAYS = {
    "plain": Way(None, 512, folds=False),
    "norms in batches of 128": Way(None, 128, folds=False),
    "bfloat16": Way(torch.bfloat16, 512, folds=False),
    "all of it": Way(torch.bfloat16, training.NORM_BATCH, folds=True),
}


def main() -> int:
    """A line of JSON for every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="where CIFAR-FS lies")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "command": f"python benchmarks/neutrality.py DATA --seeds {given.seeds}", **circumstances(), "figures": [],
    }  # fmt: skip
    for figure in figures(given.data, given.seeds):
        print(to_line(figure), flush=True)
        record["figures"].append(figure.to_json())
    if given.out:
        given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return int(any(figure["holds"] is False for figure in record["figures"]))


def figures(data: str, seeds: int) -> Iterator[Figure]:
    """Accuracies of every way, and what each loses or gains against the first."""
    gene = Learngene.load(GENE)
    config = changed_config(config_of(gene), data={"root": data}, life=LIFE, compute={"device": "cpu", "threads": 1})
    world = make_world(config)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for seed in range(seeds):
        for name, way in WAYS.items():
            found[name].append(life_and_descendants(gene, world, way, seed))
            print(f"seed {seed}, {name}: fitness, descendants {found[name][-1]}", file=sys.stderr, flush=True)
    plain = next(iter(WAYS))
    for name, pairs in found.items():
        for column, what in enumerate(("fitness", "descendants")):
            ours, theirs = [pair[column] for pair in pairs], [pair[column] for pair in found[plain]]
            about: dict[str, Any] = {"samples": [rounded(100 * each) for each in ours]}
            if name != plain:
                difference = paired_difference(ours, theirs)
                about |= {
                    "difference to plain, points": rounded(100 * difference.mean),
                    "95 % interval": [rounded(100 * difference.low), rounded(100 * difference.high)],
                }
                about["holds"] = difference.low <= 0 <= difference.high
            yield Figure(f"{name}: {what}", [100 * each for each in ours], "% on validation classes", notes=about)


def life_and_descendants(gene: Learngene, world: World, way: Way, seed: int) -> tuple[float, float]:
    """Fitness of the gene after a life with this seed, and mean accuracy of its descendants."""
    parent = ParentGene("parent", "", gene.genotype)
    job = Job(f"life-{seed}", 1, gene.genotype, (parent,), lives=True, seed=derive(seed, "neutrality"),
              critic_seed=derive(seed, "critic"), critic_tasks=3, task_seed=0)  # fmt: skip
    with computed(way):
        tensors, evaluation = evaluate(job, [gene.tensors], replace(world, compute=Compute(CPU.device, way.precision)))
    if tensors is None:
        raise RuntimeError(f"the life failed: {evaluation}")
    start, section = gene_start(world.host, gene.genotype, tensors), world.config.fewshot
    accuracies = []
    for number in range(DESCENDANTS):
        fit, test = world.val.draw_per_class(rng(seed, "neutrality", number), section.shots[0], section.test_images)
        found = fine_tune(start, fit, test, section, RATE, derive(seed, "descendant", number), CPU, moments=())
        accuracies.append(found.accuracy)
    return evaluation.fitness, sum(accuracies) / len(accuracies)


@contextmanager
def computed(way: Way) -> Iterator[None]:
    """What is no option of gtl, as it was before."""
    fold = critic.folded if way.folds else lambda network: network
    with mock.patch.object(training, "NORM_BATCH", way.norm_batch), mock.patch.object(critic, "folded", fold):
        yield


if __name__ == "__main__":
    sys.exit(main())
