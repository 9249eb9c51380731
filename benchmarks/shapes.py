"""What a gene is worth in descendants of other shapes: narrower, wider, shallower, deeper, of the other family.

python benchmarks/shapes.py --data DATA [--out RECORD.json]     DATA: CIFAR-FS; the same command goes on where it stopped
python benchmarks/shapes.py --quick                             two shapes on glyphs, seconds, to see whether it runs

Each shape's descendants start from scratch and from `gtl.inherit(network, gene)`: same images, same seeds, and each start's
own learning rate, chosen on validation classes. Gains are paired by seed, on the novel classes. Prints a line of JSON for
every shape and gene, and at the end a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from figure import Figure, circumstances, rounded, to_line, typed
from shapes_networks import SHAPES, Inherited, Shape

from gtl.config import ComputeSection, FewShotSection
from gtl.data.images import Splits
from gtl.data.request import DataRequest
from gtl.data.sources import load
from gtl.fewshot import SCRATCH, StartResult, choose_rates, compare_starts
from gtl.learngene.artifact import Learngene
from gtl.learngene.inherit import InheritReport
from gtl.machine import cores
from gtl.population.run import LEARNGENE
from gtl.report.table import gain_text, mean_text
from gtl.seeds import derive
from gtl.stats import data_interval, paired_table
from gtl.training import Compute, pick_compute
from gtl.trials import Trials

POPULATIONS = Path(__file__).parents[1] / "populations"
GENES = tuple(POPULATIONS / name / LEARNGENE for name in ("cifar-fs-vgg11-quarter", "cifar-fs-resnet12"))
SEED = 0
QUICK = ("vgg4 x 0.25", "resnet10 x 0.25")
QUICK_SECTION = FewShotSection(shots=(3,), test_images=6, seeds=2, steps=4, learning_rates=(0.03, 0.1))
QUICK_DATA = DataRequest("glyphs", image_size=32, images_per_class=14, train_classes=6, val_classes=4, novel_classes=4)


@dataclass(frozen=True, eq=False)
class Bench:
    """What all shapes share: genes by name, images, protocol, and how trials run."""

    genes: dict[str, Learngene]
    splits: Splits
    section: FewShotSection
    compute: Compute
    run: Trials

    def measure(self, shape: Shape) -> list[StartResult]:
        """Scratch and each gene in descendants of a shape."""
        starts = {SCRATCH: Inherited(shape)} | {name: Inherited(shape, gene) for name, gene in self.genes.items()}
        seed = derive(SEED, "shapes")  # the same for every gene: what began from scratch is found again

        def say(text: str) -> None:
            print(f"{shape}: {text}", file=sys.stderr, flush=True)

        rates = choose_rates(starts, self.splits["val"], self.section, seed, self.compute, advance=say, run=self.run)
        novel = self.splits["novel"]
        return compare_starts(starts, novel, self.section, rates, seed, self.compute, advance=say, run=self.run)


@dataclass(frozen=True, eq=False)
class Row:
    """One shape and one gene."""

    shape: Shape
    parameters: int
    gene: str
    inherited: InheritReport
    scratch: StartResult
    result: StartResult

    def figure(self) -> Figure:
        """As it stands in the record."""
        ours, theirs = self.result, self.scratch
        assert ours.gain is not None
        gains = [100 * (a - b) for a, b in zip(ours.accuracies, theirs.accuracies, strict=True)]
        others = data_interval(paired_table(ours.by_class, theirs.by_class))
        about: dict[str, Any] = {
            "mean": rounded(100 * ours.gain.mean),
            "95 % interval": [rounded(100 * ours.gain.low), rounded(100 * ours.gain.high)],
            "95 % interval for other classes": [rounded(100 * others.low), rounded(100 * others.high)],
            "samples": [rounded(gain) for gain in gains],
            "accuracy, %": {name: _percent(each) for name, each in (("scratch", theirs), ("inherited", ours))},
            "learning rate": {"scratch": theirs.learning_rate, "inherited": ours.learning_rate},
            "shape": {"3x3 convolutions": self.shape.convolutions, "parameters": self.parameters},
            "inherits": {
                "share of the parameters": rounded(self.inherited.share),
                "parameters": self.inherited.inherited,
                "zero": self.inherited.zero_filled,
                "carrying on": self.inherited.identity,
                "notes": list(self.inherited.notes),
            },
        }
        return Figure(f"{self.shape} from {self.gene}", gains, "points over scratch on novel classes", notes=about)


def rows(bench: Bench, shapes: Sequence[Shape]) -> Iterator[Row]:
    """All genes in all shapes, as they become known."""
    for shape in shapes:
        scratch, *found = bench.measure(shape)
        for result in found:
            network, inherited = Inherited(shape, bench.genes[result.start]).born(bench.splits["novel"].n_classes)
            assert inherited is not None
            parameters = sum(parameter.numel() for parameter in network.parameters())
            yield Row(shape, parameters, result.start, inherited, scratch, result)


def table(found: Sequence[Row]) -> str:
    """Markdown: a line a shape, two columns a gene."""
    genes = list(dict.fromkeys(row.gene for row in found))
    heads = ["descendant", "depth", "parameters", "scratch"]
    for gene in genes:
        heads += [f"{gene}: inherited", "gain, points"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for shape in dict.fromkeys(row.shape for row in found):
        of = {row.gene: row for row in found if row.shape == shape}
        first = next(iter(of.values()))
        line = [str(shape), str(shape.convolutions), f"{first.parameters:,}"]
        line.append(mean_text(first.scratch.accuracy.to_json()))
        for gene in genes:
            gain = of[gene].result.gain if gene in of else None
            line += ["", ""] if gain is None else [f"{of[gene].inherited.share:.1%}", gain_text(gain.to_json())]
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(words: Sequence[str] | None = None) -> int:
    """A line of JSON for every shape and gene, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="where CIFAR-FS lies")
    parser.add_argument("--genes", nargs="+", type=Path, default=GENES, help="learngenes to inherit")
    parser.add_argument("--shapes", nargs="+", choices=sorted(map(str, SHAPES)), help="only these, each as one word")
    parser.add_argument("--seeds", type=int, default=5, help="descendants of every shape and start")
    parser.add_argument("--workers", type=int, help="processes that train; by default one a core, or one for a GPU")
    parser.add_argument("--device", default="auto", help="to train on")
    parser.add_argument("--quick", action="store_true", help="two shapes on glyphs")
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args(words)
    if not given.quick and given.data is None:
        parser.error("say where CIFAR-FS lies, with --data DATA; or --quick")
    section, request = FewShotSection(seeds=given.seeds), DataRequest("cifar_fs", root=given.data)
    wanted = given.shapes
    if given.quick:
        section, request, wanted = QUICK_SECTION, QUICK_DATA, QUICK
    shapes = [shape for shape in SHAPES if wanted is None or str(shape) in wanted]
    genes = {path.parent.name if path.name == LEARNGENE else path.stem: Learngene.load(path) for path in given.genes}
    compute = pick_compute(ComputeSection(device=given.device))
    alone = given.quick or compute.device.type != "cpu"
    record: dict[str, Any] = {
        "command": typed("benchmarks/shapes.py", sys.argv[1:] if words is None else words),
        **circumstances(), "torchvision": version("torchvision"), "precision": compute.words,
        "protocol": section.model_dump(mode="json"), "seed": SEED,
        "genes": {name: {"digest": gene.digest, "shares": dict(gene.shares)} for name, gene in genes.items()},
        "figures": [],
    }  # fmt: skip
    found = []
    run = Trials(given.workers or (1 if alone else cores()))
    record["threads a worker"] = run.threads
    bench = Bench(genes, load(request, ("val", "novel")), section, compute, run)
    for row in rows(bench, shapes):
        found.append(row)
        print(to_line(row.figure()), flush=True)
        record["figures"].append(row.figure().to_json())
        if given.out:  # after every shape: all of them take hours
            given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(table(found))
    return 0


def _percent(result: StartResult) -> dict[str, float]:
    estimate = result.accuracy
    return {name: rounded(100 * getattr(estimate, name)) for name in ("mean", "low", "high")}


if __name__ == "__main__":
    sys.exit(main())
