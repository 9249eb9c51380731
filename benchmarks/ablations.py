"""What each part of an evolution is worth: the same evolution without it, at equal training images.

python benchmarks/ablations.py --data DATA [--out FOLDER]    DATA: CIFAR-FS; the same command goes on
python benchmarks/ablations.py --quick                       three variants on glyphs, to see whether it runs

Every variant evolves a gene with every seed, in a run directory below FOLDER. A change that would cost more or fewer
images changes the length of lives so that the total stays the same; what was really spent is told. The measure is the
accuracy of descendants on *validation* classes, mean over draws at the better of two learning rates; the difference to the
whole evolution is paired by seed, and the spread of all variants together gives its interval. Selection has seen the same
classes, in every variant: figures rank variants, and say nothing about what a gene is worth elsewhere. Prints a line of JSON
for every variant, and at the end a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figure import Figure, circumstances, rounded, to_line, typed

from gtl import engine
from gtl.config import Config
from gtl.config_file import load_config
from gtl.evolution.racing import rounds
from gtl.fewshot import Arena, Trial
from gtl.learngene.artifact import Learngene
from gtl.learngene.starts import gene_start
from gtl.machine import cores
from gtl.population.run import LEARNGENE, refuse_other_config
from gtl.stats import mean_squares, quantile
from gtl.trials import Trials
from gtl.world import make_world

CONFIGS = Path(__file__).parents[1] / "configs"
RECORD = "record.json"
RATES = (0.01, 0.03)
WHOLE = "the whole evolution"
SMALLER = (
    "founders.epochs=4", "life.steps=2400", "evolution.search_generations=8",
    "gene.budget=0.1", "gene.initial_share=[0.08,0.1]",
)  # fmt: skip
QUICK = (
    "cluster.workers=1", "compute.threads=1", "data.source=glyphs", "data.root=null", "data.images_per_class=120",
    "data.train_classes=6", "data.val_classes=4", "data.novel_classes=4", "model.width=0.0625", "founders.epochs=1",
    "founders.training.batch_size=32", "evolution.population=3", "evolution.search_generations=1", "life.steps=32",
    "life.n_way=6", "life.training.batch_size=16", "critic.tasks=1", "critic.fit_images=6", "critic.score_images=6",
    "critic.final_tasks=1", "fewshot.shots=[4]", "fewshot.steps=4", "fewshot.test_images=10",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """An evolution that differs in one thing.

    Attributes:
        name: in tables.
        overrides: of the configuration.
        against: the variant that it is compared with.
        group: what it is about.
    """

    name: str
    overrides: tuple[str, ...]
    group: str
    against: str = WHOLE


NEWBORN = ("life.host=newborn", "life.distill=0")
NO_RACE = ("evolution.racing.heats=[]",)
SGD = ("life.training.optimiser=sgd", "founders.training.optimiser=sgd")
VARIANTS = (
    Variant(WHOLE, (), ""),
    Variant("no search of the allocation", ("evolution.search_generations=0",), "search"),
    Variant("random parents (tournaments of one)", ("evolution.tournament.size=1",), "search"),
    Variant("no mutation", ("evolution.mutation.rate=0", "evolution.mutation.search_rate=0"), "mutation"),
    Variant("no moves between groups", ("evolution.mutation.move=0",), "mutation"),
    Variant(
        "moves alone",
        ("evolution.mutation.add=0", "evolution.mutation.drop=0", "evolution.mutation.swap=0"),
        "mutation",
    ),
    Variant("new channels the ancestor's", ("evolution.mutation.new_channel=ancestor",), "mutation"),
    Variant("all six live", NO_RACE, "lives"),
    Variant("six short lives, the best once more in full", ("evolution.racing.heats=[0.125]",), "lives"),
    Variant("two generations of half as long lives", ("evolution.generations=2",), "lives"),
    Variant(
        "three siblings averaged",
        (*NO_RACE, "evolution.litter=3", "evolution.crossover.average_siblings=true"),
        "lives",
    ),
    Variant("the ancestor's answers, head and new channels, too", ("life.distill=0.9",), "lives"),
    Variant("lives in whole newborns", NEWBORN, "lives"),
    Variant("the same, zero block masked", (*NEWBORN, "life.zero_block=masked"), "lives", "lives in whole newborns"),
    Variant("16 classes a life", ("life.n_way=16",), "classes"),
    Variant("5 classes a life", ("life.n_way=5",), "classes"),
    Variant("SGD instead of Muon", SGD, "learning rate"),
    Variant("learning rate 0.02", ("life.training.learning_rate=0.02",), "learning rate"),
    Variant("learning rate 0.05", ("life.training.learning_rate=0.05",), "learning rate"),
    Variant("constant learning rate", ("life.training.schedule=constant",), "learning rate"),
    Variant(
        "founders random",
        (*NEWBORN, "founders.kind=random", "evolution.search_generations=0", "evolution.generations=3"),
        "founders",
        "lives in whole newborns",
    ),
    Variant("ancestor twice as long, shorter lives", ("founders.epochs=8",), "founders"),
)
QUICK_VARIANTS = tuple(
    each for each in VARIANTS if each.name in (WHOLE, "no mutation", "two generations of half as long lives")
)


def images_a_step(config: Config) -> float:
    """Training images of all lives, for every step that a full life has."""
    evolution, whole = config.evolution, config.life.steps
    lives = evolution.population - evolution.tournament.elite
    steps = sum(n * length for n, length in rounds(evolution.racing, lives, whole)) / whole
    return config.life.training.batch_size * steps * evolution.generations


def lives_images(config: Config, train_images: int) -> float:
    """Images that are left for lives: all that `config` spends, without an ancestor for random founders."""
    ancestor = 0.0 if config.founders.kind == "random" else config.founders.epochs * train_images
    return images_a_step(config) * config.life.steps + ancestor


def settled(variant: Variant, base: Sequence[str], train_images: int) -> Config:
    """A variant's configuration, its lives as long as the images of the whole evolution allow."""
    path = CONFIGS / "cifar_fs_vgg11_quarter.yaml"
    whole, changed = load_config(path, base), load_config(path, [*base, *variant.overrides])
    ancestor = 0.0 if changed.founders.kind == "random" else changed.founders.epochs * train_images
    steps = round((lives_images(whole, train_images) - ancestor) / images_a_step(changed))
    return load_config(path, [*base, *variant.overrides, f"life.steps={max(1, steps)}"])


def evolved(config: Config, run: Path) -> Learngene:
    """The run's gene: evolved now, gone on with, or found."""
    if not (run / LEARNGENE).exists():
        if (run / "run.json").exists():
            refuse_other_config(config, run)
            engine.resume(run)
        else:
            engine.evolve(config, run)
    return Learngene.load(run / LEARNGENE)


def accuracies(genes: Mapping[str, Learngene], config: Config, draws: int, run: Trials) -> dict[str, float]:
    """Accuracy of each gene's descendants on validation classes, at the better rate: mean over draws of images."""
    world = make_world(config)
    starts = {name: gene_start(world.host, gene.genotype, gene.tensors) for name, gene in genes.items()}
    shots = config.fewshot.shots[0]
    trials = [Trial("rate", name, shots, rate, n) for name in starts for rate in RATES for n in range(draws)]
    found = iter(run(Arena(starts, world.val, config.fewshot, config.seed, world.compute), trials, lambda text: None))
    by_rate = {name: [statistics.fmean(next(found).accuracy for _ in range(draws)) for _ in RATES] for name in starts}
    return {name: max(rates) for name, rates in by_rate.items()}


def figures(
    base: Sequence[str], variants: Sequence[Variant], seeds: int, draws: int, folder: Path, runner: Trials
) -> Iterator[Figure]:
    """One figure a variant: the difference to what it is compared with, in points."""
    with_data = load_config(CONFIGS / "cifar_fs_vgg11_quarter.yaml", base)
    train_images = len(make_world(with_data).train.labels)
    found: dict[str, list[float]] = {each.name: [] for each in variants}
    about: dict[str, dict[str, Any]] = {}
    for seed in range(seeds):
        genes = {}
        for variant in variants:
            config = settled(variant, [*base, f"seed={seed}"], train_images)
            print(f"{variant.name}, seed {seed}: lives of {config.life.steps} steps", file=sys.stderr, flush=True)
            gene = genes[variant.name] = evolved(config, folder / f"{_slug(variant.name)}-{seed}")
            images, share = gene.provenance["images"]["total"], gene.shares["circuit"]
            about[variant.name] = {"steps of a life": config.life.steps, "images": images, "share": rounded(share)}
        for name, value in accuracies(genes, load_config_of(base, seed), draws, runner).items():
            found[name].append(100 * value)
    half = half_width(list(found.values())) if seeds > 1 and len(variants) > 1 else None
    for variant in variants:
        ours, theirs = found[variant.name], found[variant.against]
        notes = {"about": variant.group, **about[variant.name], "accuracy, %": [rounded(each) for each in ours]}
        if variant.name == WHOLE:
            yield Figure(variant.name, ours, "% of validation images", notes=notes)
            continue
        points = [a - b for a, b in zip(ours, theirs, strict=True)]
        gap = statistics.fmean(points)
        between = None if half is None else [rounded(gap - half), rounded(gap + half)]
        notes |= {"against": variant.against, "95 % interval": between}
        yield Figure(variant.name, points, "points of accuracy", notes=notes)


def half_width(table: Sequence[Sequence[float]]) -> float:
    """Half of the 95 % interval of a mean difference between any two variants, in the units of `table`.

    A few seeds say little about the spread of one difference, so it is taken from all variants together: randomised blocks,
    where every seed is a block (its images and mostly its ancestor are the same for all variants), and what neither variant
    nor seed explains has (variants - 1) (seeds - 1) degrees of freedom. Not corrected for several comparisons.

    Args:
        table: shape (variants, seeds), at least two of each.
    """
    variants, seeds = len(table), len(table[0])
    _, _, residual = mean_squares(np.asarray(table))
    return quantile((variants - 1) * (seeds - 1)) * math.sqrt(2 * residual / seeds)


def load_config_of(base: Sequence[str], seed: int) -> Config:
    """The configuration that descendants of this seed are judged by."""
    return load_config(CONFIGS / "cifar_fs_vgg11_quarter.yaml", [*base, f"seed={seed}", "compute.threads=1"])


def table(found: Sequence[Figure]) -> str:
    """Markdown, a line a variant."""
    lines = [
        "| evolution | steps of a life | images | accuracy, % | difference, points | against |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for each in found:
        notes, mean = each.notes, sum(each.notes["accuracy, %"]) / len(each.notes["accuracy, %"])
        gap = sum(each.samples) / len(each.samples)
        between = notes.get("95 % interval")
        shown = "" if between is None else f"{gap:+.1f} ({between[0]:+.1f} to {between[1]:+.1f})"
        lines.append(
            f"| {each.name} | {notes['steps of a life']:,} | {notes['images']:,} | {mean:.1f} | {shown} "
            f"| {notes.get('against', '')} |"
        )
    return "\n".join(lines)


def _slug(name: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in name)


def main(arguments: Sequence[str] | None = None) -> int:
    """All variants that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.npz and val.npz of CIFAR-FS")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=4, help="of validation images, each a descendant of every gene")
    parser.add_argument("--variants", nargs="+", default=[], help="names or groups; all by default")
    parser.add_argument("--quick", action="store_true", help="three variants on glyphs")
    parser.add_argument("--out", type=Path, help="folder for the runs and the record")
    given = parser.parse_args(arguments)
    if given.data is None and not given.quick:
        parser.error("--data says where CIFAR-FS lies; or --quick")
    variants = QUICK_VARIANTS if given.quick else chosen(given.variants, parser)
    base = QUICK if given.quick else (*SMALLER, f"data.root={given.data}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.out or Path(scratch)
        found = []
        for figure in figures(base, variants, given.seeds, given.draws, folder, Trials(1 if given.quick else cores())):
            print(to_line(figure), flush=True)
            found.append(figure)
        if given.out:
            command = typed("benchmarks/ablations.py", arguments if arguments is not None else sys.argv[1:])
            record = {"command": command, **circumstances(), "figures": [figure.to_json() for figure in found]}
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(table(found))
    return 0


def chosen(names: Sequence[str], parser: argparse.ArgumentParser) -> tuple[Variant, ...]:
    """The variants of these names or groups, and what they are compared with."""
    known = {name for each in VARIANTS for name in (each.name, each.group)}
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown variants {unknown}; known are {sorted(known - {''})}")
    wanted = [each for each in VARIANTS if not names or {each.name, each.group} & set(names)]
    needed = {each.against for each in wanted} | {each.name for each in wanted} | {WHOLE}
    return tuple(each for each in VARIANTS if each.name in needed)


if __name__ == "__main__":
    sys.exit(main())
