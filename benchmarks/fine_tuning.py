"""Which rule of fine-tuning makes the most of a learngene: its descendants on validation classes, trained by each rule.

python benchmarks/fine_tuning.py [GENE] [--out RECORD.json]     on the embedded glyphs
python benchmarks/fine_tuning.py [GENE] --data DATA             DATA: CIFAR-FS; the same command goes on where it stopped
python benchmarks/fine_tuning.py --quick                        seconds, to see whether it runs

All rules meet the same images and seeds, and take as many steps. Each has its own learning rate, chosen on other draws of the
same validation classes. Novel classes are not loaded. Prints a line of JSON for every rule: its descendants' accuracy, and the
gain over the plain training, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from figure import Figure, circumstances, rounded, to_line, typed

from gtl.config import ComputeSection, FewShotSection
from gtl.data.images import ImageSet, refuse_novel
from gtl.data.request import DataRequest
from gtl.data.sources import load
from gtl.fewshot import Arena, Trial, choose_rates
from gtl.learngene.artifact import Learngene
from gtl.learngene.evidence import config_of
from gtl.learngene.starts import gene_start
from gtl.machine import cores
from gtl.models import spec_of
from gtl.population.run import LEARNGENE
from gtl.seeds import derive
from gtl.stats import Estimate, estimate, paired_difference
from gtl.training import Compute, pick_compute
from gtl.transfer.fine_tuning import RULES, Plain, fine_tuning
from gtl.trials import Trials

GENE = Path(__file__).parents[1] / "populations" / "cifar-fs-vgg11-quarter" / LEARNGENE
SEED = 0
QUICK_SECTION = FewShotSection(shots=(3,), test_images=6, seeds=2, steps=2, learning_rates=(0.03, 0.1))
QUICK_GLYPHS = {"images_per_class": 14, "train_classes": 6, "val_classes": 4, "novel_classes": 4}


@dataclass(frozen=True, eq=False)
class Bench:
    """A learngene's descendants, and what they learn from.

    Attributes:
        rules: names of the rules.
        val: images of validation classes.
        section: how descendants are trained and tested.
        run: how trials run.
    """

    gene: Learngene
    rules: Sequence[str]
    val: ImageSet
    section: FewShotSection
    compute: Compute
    run: Trials

    def figures(self) -> Iterator[Figure]:
        """Every rule for every number of shots; the plain one is always measured, since gains are over it."""
        refuse_novel(self.val, "the comparison of fine-tuning rules")
        model = config_of(self.gene).model
        host = spec_of(model.arch, num_classes=self.val.n_classes, width=model.width, family=model.family)
        start = gene_start(host, self.gene.genotype, self.gene.tensors)
        names = [Plain.name, *(name for name in self.rules if name != Plain.name)]
        rules = {name: fine_tuning(name, genotype=self.gene.genotype) for name in names}
        starts = {name: replace(start, training=rule) for name, rule in rules.items()}
        rates = choose_rates(
            starts, self.val, self.section, derive(SEED, "rates"), self.compute, advance=_say, run=self.run
        )
        arena = Arena(starts, self.val, self.section, derive(SEED, "descendants"), self.compute)
        for shots in self.section.shots:
            plain: list[float] = []
            for name in names:
                asked = [Trial("rate", name, shots, rates[name, shots], n) for n in range(self.section.seeds)]
                reached = [100 * descendant.accuracy for descendant in self.run(arena, asked, _say)]
                plain = plain or reached
                gain = paired_difference(reached, plain)
                about: dict[str, Any] = {
                    "95 % interval": _interval(estimate(reached)),
                    "samples": [rounded(value) for value in reached],
                    "gain over plain, points": {"mean": rounded(gain.mean), "95 % interval": _interval(gain)},
                    "learning rate": rates[name, shots],
                    "options": rules[name].options,
                }
                yield Figure(f"{name}, {shots} shots", reached, "% on validation classes", notes=about)


def main(words: Sequence[str] | None = None) -> int:
    """A line of JSON for every rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gene", nargs="?", type=Path, default=GENE, help="learngene that descendants start from")
    parser.add_argument("--data", help="where CIFAR-FS lies; without it, the embedded glyphs")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES), help="only these, and plain")
    parser.add_argument("--shots", nargs="+", type=int, default=[20], help="training images a class")
    parser.add_argument("--seeds", type=int, default=5, help="descendants of every rule")
    parser.add_argument("--workers", type=int, help="processes that train; by default one a core, or one for a GPU")
    parser.add_argument("--device", default="auto", help="to train on")
    parser.add_argument("--quick", action="store_true", help="two steps on a few glyphs")
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args(words)
    gene = Learngene.load(given.gene)
    size = config_of(gene).data.image_size or 32
    section = FewShotSection(shots=tuple(given.shots), seeds=given.seeds)
    request = DataRequest("cifar_fs", root=given.data) if given.data else DataRequest("glyphs", image_size=size)
    if given.quick:
        section, request = QUICK_SECTION, DataRequest("glyphs", image_size=size, **QUICK_GLYPHS)
    compute = pick_compute(ComputeSection(device=given.device))
    run = Trials(given.workers or (1 if given.quick or compute.device.type != "cpu" else cores()))
    record: dict[str, Any] = {
        "command": typed("benchmarks/fine_tuning.py", sys.argv[1:] if words is None else words),
        **circumstances(), "precision": compute.words, "threads a worker": run.threads, "seed": SEED,
        "protocol": section.model_dump(mode="json"), "gene": gene.digest, "data": request.source, "figures": [],
    }  # fmt: skip
    for figure in Bench(gene, given.rules, load(request, ("val",))["val"], section, compute, run).figures():
        print(to_line(figure), flush=True)
        record["figures"].append(figure.to_json())
        if given.out:
            given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


def _interval(found: Estimate) -> list[float]:
    return [rounded(found.low), rounded(found.high)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
