"""Which critic predicts what a gene is worth: rankings of genes by cheap critics against what descendants finally reach.

python benchmarks/critics.py --data DATA [--out RECORD.json]    DATA: CIFAR-FS; the same command goes on where it stopped
python benchmarks/critics.py --quick                            a few genes on glyphs, seconds, to see whether it runs

48 genes of each architecture (`critics_genes.py`). The truth is the accuracy of their descendants, fine-tuned in full on
20 images a class at each gene's own learning rate. A default will be chosen by this, and nothing is ever chosen on the novel
classes: so the validation classes are cut in halves, a critic sees one half and the truth is from the other, in both
directions, for several cuts and several draws of images. Spearman's correlation is taken per direction and averaged; its
interval is over genes. A correlation over all genes is flattered by how much they differ, so it is also taken over those of
one ancestor and over those whose budget lies where a rule or a search puts it: what an evolution has to rank. A row of its
own says how well descendants on one half rank those on the other: one draw of other classes, fine-tuned in full.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from critics_genes import SEED, Candidate, Plan, candidates, of_whole, relative_shares, well_spent
from critics_ranks import Interval, Resampled, Table
from critics_variants import DEFAULT, OF_ALL, VARIANTS, judge
from figure import Figure, circumstances, rounded, to_line, typed

from gtl import critic
from gtl.config import Config, FewShotSection
from gtl.config_file import changed_config, load_config
from gtl.critic import Gene, criticise, draw_tasks
from gtl.data.cache import read_cached, write_cached
from gtl.data.images import ImageSet
from gtl.fewshot import Arena, Trial
from gtl.learngene.artifact import Learngene
from gtl.learngene.evidence import config_of
from gtl.life import World
from gtl.machine import cores
from gtl.population.run import LEARNGENE
from gtl.seeds import derive, rng
from gtl.trials import Trials
from gtl.versions import code_digest, versions
from gtl.world import make_world

HERE = Path(__file__).parent
GENES = {"vgg11": "cifar-fs-vgg11-quarter", "resnet12": "cifar-fs-resnet12"}
TRUTH, SHARE, SHORT = "descendants on the other half", "share of the parameters (control)", "short training, 1 task"
LIFE = {
    "host": "newborn",
    "steps": 400,
    "distill": 0.0,
}  # of the genes that are ranked, whatever the committed ones have had
# of all genes: what the critic of an evolution has to rank
PARTS = ("genes of one ancestor", "budget by rule or search")
MOST_TASKS = 6  # twice as many as evolution gives; it gives the configuration's number
COUNTED = {f"{name}, {n} task{'s' * (n > 1)}": (name, n) for name in (DEFAULT, OF_ALL) for n in (1, MOST_TASKS)}
QUICK = (
    "data.images_per_class=16", "data.train_classes=6", "data.val_classes=4", "data.novel_classes=4", "life.n_way=6",
    "life.steps=3", "life.training.batch_size=32", "founders.epochs=2", "founders.training.batch_size=32",
    "critic.fit_images=4", "critic.score_images=6", "critic.steps=2", "critic.tasks=2", "fewshot.shots=[4]",
    "fewshot.test_images=6", "fewshot.steps=3",
)  # fmt: skip
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Bench:
    """Genes of one architecture, and what they are judged on.

    Attributes:
        splits: cuts of the validation classes in two halves.
        draws: descendants of every gene on each half.
        run: how descendants are trained.
    """

    world: World
    genes: Sequence[Candidate]
    splits: int
    draws: int
    run: Trials
    say: Say

    @cached_property
    def halves(self) -> list[tuple[ImageSet, ImageSet]]:
        """(what the critic sees, what the truth is from): both directions of every cut."""
        val, pairs = self.world.val, []
        for number in range(self.splits):
            classes = rng(SEED, "halves", number).permutation(val.n_classes).tolist()
            one, other = (val.take_classes(part) for part in np.array_split(classes, 2))
            pairs += [(one, other), (other, one)]
        return pairs

    def descendants(self) -> tuple[Table, list[float]]:
        """Mean accuracy of descendants, (pairs, genes), and the learning rate of each gene's.

        A gene's learning rate is the one that was best in the first draw, over all halves.
        """
        rates = self.world.config.fewshot.learning_rates
        first = [self._reached(number, [(rate, 0) for _ in self.genes for rate in rates]) for number in self._pairs]
        by_rate = np.reshape(first, (len(first), len(self.genes), len(rates)))
        chosen = by_rate.mean(0).argmax(1)
        own = [rates[index] for index in chosen]
        found = [np.take_along_axis(by_rate, chosen[None, :, None], 2)[:, :, 0]]
        for draw in range(1, self.draws):
            found.append(np.stack([self._reached(number, [(rate, draw) for rate in own]) for number in self._pairs]))
        return np.mean(found, axis=0), own

    @property
    def _pairs(self) -> range:
        return range(len(self.halves))

    def _reached(self, number: int, asked: Sequence[tuple[float, int]]) -> Table:
        """Accuracies of descendants on one half, of (learning rate, draw): as many for every gene, in their order."""
        section, half = self.world.config.fewshot, self.halves[number][1]
        (shots,) = section.shots
        starts = {str(index): gene.start for index, gene in enumerate(self.genes)}
        arena = Arena(starts, half, section, derive(SEED, "truth", number), self.world.compute)
        names = [name for name in starts for _ in range(len(asked) // len(starts))]
        trials = [Trial("rate", name, shots, rate, draw) for name, (rate, draw) in zip(names, asked, strict=True)]
        said = self._said(f"descendants, pair {number + 1} of {len(self.halves)}, draw {asked[0][1] + 1}", len(trials))
        return np.array([descendant.accuracy for descendant in self.run(arena, trials, said)])

    def judged(self) -> tuple[dict[str, Table], dict[str, float]]:
        """Every critic's value, (pairs, genes), and its seconds for a gene on one half."""
        records = [[self._judged_here(gene, number) for gene in self.genes] for number in self._pairs]
        values: dict[str, Table] = {}
        seconds: dict[str, float] = {}
        usual = dict.fromkeys(VARIANTS, self.world.config.critic.tasks) | {SHORT: 1}
        for name, (source, tasks) in ({name: (name, tasks) for name, tasks in usual.items()} | COUNTED).items():
            values[name] = np.array([[np.mean(each[source]["values"][:tasks]) for each in row] for row in records])
            spent = [sum(each[source]["seconds"][:tasks]) for row in records for each in row]
            seconds[name] = statistics.median(spent)
        shares = [gene.share for gene in self.genes]
        values[SHARE], seconds[SHARE] = np.array([shares] * len(self.halves)), 0.0
        return values, seconds

    def _judged_here(self, candidate: Candidate, number: int) -> dict[str, Any]:
        """Of one gene on one half, from the cache folder if it was judged before."""
        world, (half, _) = self.world, self.halves[number]
        section = world.config.critic
        key = [candidate.start.digest, half.class_names, world.class_digest, len(half.labels), section.model_dump(mode="json"),
               number, SEED, self._code, versions(world.compute)]  # fmt: skip
        name = f"critics-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]}.json"
        found = read_cached(name)
        if found is None:
            gene = Gene(world.host, candidate.genotype, candidate.tensors)
            seed = derive(SEED, "critic", number)
            tasks = draw_tasks(half, section, seed, MOST_TASKS)
            each = [judge(gene, task, world.compute) for task in tasks]
            found = {
                variant: {"values": [one[variant][0] for one in each], "seconds": [one[variant][1] for one in each]}
                for variant in VARIANTS
            }
            trains = section.model_copy(update={"kind": "short_training"})
            began = time.perf_counter()
            value = criticise(gene, tasks[:1], trains, seed, world.compute)
            found[SHORT] = {"values": value, "seconds": [time.perf_counter() - began]}
            write_cached(name, found)
            self.say(f"judged {candidate.origin} on pair {number + 1} of {len(self.halves)}")
        return found

    @cached_property
    def _code(self) -> str:
        files = (HERE / "critics_variants.py", Path(critic.__file__))
        return code_digest() + hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def _said(self, what: str, count: int) -> Say:
        done = 0

        def said(text: str) -> None:
            nonlocal done
            if "finished before" in text:
                self.say(f"{what}: {text}")
                return
            done += 1
            if done % 10 == 0 or done == count:
                self.say(f"{what}: {done} of at most {count}")

        return said


def figures(bench: Bench) -> Iterator[Figure]:
    """The genes, and a line for every critic, the best first."""
    truth, rates = bench.descendants()
    values, seconds = bench.judged()
    values[TRUTH] = truth.reshape(-1, 2, truth.shape[1])[:, ::-1].reshape(truth.shape)  # each cut's other direction
    arch = bench.world.host.arch
    of_all = {name: Resampled.of(table, truth) for name, table in values.items()}
    parts = {}
    for part, chosen in zip(PARTS, (of_whole(bench.genes), well_spent(bench.genes)), strict=True):
        found = {name: Resampled.of(table[:, chosen], truth[:, chosen]) for name, table in values.items()}
        parts[part] = (len(chosen), found)
    genes = [
        {**gene.to_json(), "learning rate": rate, "descendants, %": [rounded(100 * each) for each in reached]}
        for gene, rate, reached in zip(bench.genes, rates, truth.T, strict=True)
    ]
    mean = (100 * truth.mean(0)).tolist()
    yield Figure(f"{arch}: genes", mean, "% of descendants on validation classes", notes={"genes": genes})
    for name in sorted(values, key=lambda name: -of_all[name].whole):
        about: dict[str, Any] = {
            **described(name, of_all),
            **{part: {"n": count, **described(name, found)} for part, (count, found) in parts.items()},
        }
        if name in seconds:
            about["seconds a gene"] = rounded(seconds[name])
        about["values"] = listed(values[name])
        yield Figure(f"{arch}: {name}", [of_all[name].whole], "Spearman with what descendants reach", notes=about)


def described(name: str, found: Mapping[str, Resampled]) -> dict[str, Any]:
    """A critic's correlation, and how it compares with the default's."""
    said = shown(found[name].interval)
    if name != DEFAULT:
        said["over the default"] = shown(found[name].over(found[DEFAULT]))
    return said


def listed(numbers: Table) -> list[list[float]]:
    """As tables stand in records."""
    return [[rounded(value) for value in row] for row in numbers.tolist()]


def shown(interval: Interval) -> dict[str, Any]:
    """A value with its interval, as they stand in records."""
    return {"value": rounded(interval.value), "95 % interval": [rounded(interval.low), rounded(interval.high)]}


def table(found: Sequence[Figure]) -> str:
    """Markdown: a line a critic, four columns an architecture."""
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    for figure in found:
        arch, _, name = figure.name.partition(": ")
        if figure.unit.startswith("Spearman"):
            by_name.setdefault(name, {})[arch] = figure.to_json()
    archs = list(dict.fromkeys(arch for each in by_name.values() for arch in each))
    heads = ["critic"]
    for arch in archs:
        heads += [f"{arch}: Spearman", *PARTS, "seconds a gene"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, of in by_name.items():
        line = [name]
        for arch in archs:
            whole = of[arch]
            line += [text(each["value"], each["95 % interval"]) for each in (whole, *(whole[part] for part in PARTS))]
            line.append(f"{whole['seconds a gene']:.2g}" if "seconds a gene" in whole else "")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(value: float, interval: Sequence[float]) -> str:
    """``0.81 (0.70 to 0.89)``."""
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def main(words: Sequence[str] | None = None) -> int:
    """A line of JSON for every critic and architecture, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="where CIFAR-FS lies")
    parser.add_argument("--arch", nargs="+", choices=sorted(GENES), default=list(GENES), help="of the genes")
    parser.add_argument("--splits", type=int, default=2, help="cuts of the validation classes in halves")
    parser.add_argument("--draws", type=int, default=2, help="descendants of every gene on each half")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates that each gene's own is chosen from")
    parser.add_argument("--epochs", type=float, default=40.0, help="of the ancestor that most genes are cut from")
    parser.add_argument("--whole", type=int, default=Plan.whole, help="genes of each score and allocation from it")
    parser.add_argument("--lived", type=int, default=Plan.lived, help="how many of those are also there after lives")
    parser.add_argument("--workers", type=int, help="processes that train descendants; by default one a core")
    parser.add_argument("--quick", action="store_true", help="a few genes of VGG11 on glyphs")
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args(words)
    if not given.quick and given.data is None:
        parser.error("say where CIFAR-FS lies, with --data DATA; or --quick")
    plan = Plan(given.whole, lived=given.lived)
    if given.quick:
        given.arch, given.splits, given.draws, plan = ["vgg11"], 1, 1, Plan(1, shorter=(), lived=1, methods=("l1",))
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "command": typed("benchmarks/critics.py", sys.argv[1:] if words is None else words),
        **circumstances(), "seed": SEED,
        "splits": given.splits, "draws": given.draws, "protocol": {}, "figures": [],
    }  # fmt: skip

    def say(said: str) -> None:
        print(said, file=sys.stderr, flush=True)

    found = []
    run = Trials(given.workers or (1 if given.quick else cores()))
    for arch in given.arch:
        searched = Learngene.load(HERE.parent / "populations" / GENES[arch] / LEARNGENE)
        world = make_world(config(searched, given))
        genes = candidates(world, plan, relative_shares(searched.genotype), say)
        section = world.config
        record["protocol"][arch] = {
            "critic": section.critic.model_dump(mode="json"), "fewshot": section.fewshot.model_dump(mode="json"),
            "life": section.life.model_dump(mode="json"), "founders": section.founders.model_dump(mode="json"),
        }  # fmt: skip
        for figure in figures(Bench(world, genes, given.splits, given.draws, run, say)):
            found.append(figure)
            print(to_line(figure), flush=True)
            record["figures"].append(figure.to_json())
        if given.out:
            given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(table(found))
    return 0


def config(searched: Learngene, given: argparse.Namespace) -> Config:
    """What genes are made and judged by: as the learngene of that architecture was, and its descendants."""
    if given.quick:
        return load_config(HERE.parent / "configs" / "glyphs.yaml", [*QUICK, "compute.device=cpu", "compute.threads=1"])
    fewshot = FewShotSection().model_dump() | ({"learning_rates": tuple(given.rates)} if given.rates else {})
    compute = {"device": "cpu", "threads": 1}  # critics are timed, and a GPU's work is not where it is asked for
    return changed_config(
        config_of(searched),
        data={"root": given.data},
        compute=compute,
        fewshot=fewshot,
        life=LIFE,
        founders={"epochs": given.epochs},
    )


if __name__ == "__main__":
    sys.exit(main())
