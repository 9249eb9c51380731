"""What is left of a gene that is shrunk: which channels and how many of each group, judged by the critic.

python benchmarks/shrinking.py --data DATA [--out RECORD.json]      DATA: CIFAR-FS; five minutes of one core

The genes of populations/ are shrunk to two budgets by every method and allocation, their norms estimated on train images,
and meet the same tasks of validation classes. Random channels are drawn three times.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from figure import Figure, circumstances, rounded, to_line

from gtl.critic import Gene, criticise, draw_tasks
from gtl.learngene.artifact import Learngene
from gtl.learngene.derived import HERE
from gtl.learngene.evidence import config_of
from gtl.learngene.gene_images import load_images
from gtl.learngene.shrinking import ALLOCATIONS, METHODS, shrink
from gtl.models import ArchSpec

POPULATIONS = Path(__file__).parents[1] / "populations"
GENES = ("cifar-fs-vgg11-quarter", "cifar-fs-resnet12")
BUDGETS = (0.1, 0.05)
SEED, DRAWS = 7, 3
UNIT = "% right on validation classes"


def figures(name: str, data: str) -> Iterator[Figure]:
    """Accuracy of a gene, and of what every way to shrink leaves of it."""
    gene = Learngene.load(POPULATIONS / name / "learngene.safetensors")
    train, val = (load_images([gene], f"cifar_fs:{data}", role) for role in ("train", "val"))
    section = config_of(gene).critic
    tasks = draw_tasks(val, section, SEED, section.final_tasks)
    host = ArchSpec(gene.arch, tuple(gene.genotype.sizes.items()), 1)

    def judged(found: Learngene) -> float:
        scores = criticise(Gene(host, found.genotype, found.tensors), tasks, section, SEED, HERE)
        return 100 * sum(scores) / len(scores)

    yield Figure(f"{name}: whole gene", [judged(gene)], UNIT, notes={"share": gene.shares["circuit"]})
    for budget, allocation, method in product(BUDGETS, ALLOCATIONS, METHODS):
        way: dict[str, Any] = {"method": method, "allocation": allocation}
        seeds = range(DRAWS) if method == "random" else range(1)
        small = [shrink(gene, budget, **way, images=train, seed=seed) for seed in seeds]
        notes: dict[str, Any] = {"counts": list(small[0].genotype.counts.values())}
        if method == "l1":
            notes["with the norms that it had"] = rounded(judged(shrink(gene, budget, **way)))
        yield Figure(f"{name}: {budget:g}, {allocation}, {method}", [judged(each) for each in small], UNIT, notes=notes)


def main() -> int:
    """A line of JSON for every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-FS")
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args()
    record: dict[str, Any] = {"command": "python benchmarks/shrinking.py --data DATA", **circumstances(), "figures": []}
    for name in GENES:
        for figure in figures(name, given.data):
            print(to_line(figure), flush=True)
            record["figures"].append(figure.to_json())
    if given.out:
        given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
