"""How often intervals hold the truth and tests err, on simulated classifiers whose truth is known.

python benchmarks/interval_coverage.py [--repetitions 10000] [--out RECORD.json]      no training; two minutes of one core

Each line is one setting: what accuracies vary with, seeds and classes of the comparison, and the share of repetitions in
which `gtl.stats.data_interval` held the true mean over all classes; beside it the same of the sampler's interval (over
seeds) and of ways to make a data interval that were not taken. Last come the sizes of tests where there is no difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from figure import Figure, circumstances, rounded, to_line
from scipy import special
from simulated import MEAN, Floats, Spread, accuracies, episodes

from gtl.stats import data_interval, estimate, holm, mean_squares, p_value, paired_difference

SEEDS, CLASSES = (3, 5, 10), (5, 10, 20)
FEW = 500  # at most so many sets of images, of 400 episodes each
GAIN = 0.05
# Of one start; the first is what few-shot accuracies look like: classes differ by far more than seeds do.
SINGLE = {
    "classes differ most": Spread(classes=0.12, seeds=0.01, cells=0.03),
    "classes and seeds differ": Spread(classes=0.06, seeds=0.04, cells=0.03),
    "seeds differ most": Spread(classes=0.02, seeds=0.06, cells=0.03),
    "seeds alone differ": Spread(seeds=0.06),
    "test images alone": Spread(),
    "classes differ most, skewed": Spread(classes=0.12, seeds=0.01, cells=0.03, skewed=True),
}
# Of differences between two starts: what both share cancels.
SHARED = {"classes": 0.1, "seeds": 0.015}
PAIRED = {
    "gains differ by class": Spread(**SHARED, start_classes=0.04, start_seeds=0.01, cells=0.03),
    "gains differ by class and seed": Spread(**SHARED, start_classes=0.03, start_seeds=0.02, cells=0.03),
    "gains differ by seed": Spread(**SHARED, start_seeds=0.03, cells=0.02),
    "gains differ by nothing": Spread(**SHARED),
    "gains differ by class, skewed": Spread(**SHARED, start_classes=0.06, start_seeds=0.01, cells=0.02, skewed=True),
}
NOTHING_BUT_IMAGES = ("test images alone", "gains differ by nothing")


def coverage(
    draw: np.random.Generator, repetitions: int, seeds: int, classes: int, spread: Spread, *, paired: bool
) -> dict[str, float]:
    """Percentage of repetitions whose interval holds the truth: the data interval's, the sampler's, and those of other ways."""
    found = accuracies(draw, repetitions, seeds, classes, spread, (GAIN, 0.0) if paired else (0.0,))
    tables, truth = (found[:, 0] - found[:, 1], GAIN) if paired else (found[:, 0], MEAN)
    held = {
        "data": [(e := data_interval(table)).low <= truth <= e.high for table in tables],
        "sampler": [(e := estimate(rows)).low <= truth <= e.high for rows in tables.mean(axis=2).tolist()],
        **{name: np.abs(tables.mean(axis=(1, 2)) - truth) <= half for name, half in other_ways(tables).items()},
    }
    return {name: rounded(100 * float(np.mean(each))) for name, each in held.items()}


def other_ways(tables: Floats) -> dict[str, Floats]:
    """Half-widths of data intervals that were tried and not taken, of each table."""
    seeds, classes = tables.shape[1:]
    of_seeds, of_classes, residual = np.array([mean_squares(table) for table in tables]).T
    parts = of_seeds**2 / (seeds - 1) + of_classes**2 / (classes - 1)
    crossed, summed = np.maximum(of_seeds + of_classes - residual, 0.0), of_seeds + of_classes
    freedom = crossed**2 / (parts + residual**2 / ((seeds - 1) * (classes - 1)))
    ways = {
        "without a floor": (crossed, np.maximum(freedom, 1.0)),
        "residual counted twice": (summed, summed**2 / parts),
        "freedom of the smaller side": (
            np.maximum(crossed, np.maximum(of_seeds, of_classes)),
            np.full(len(tables), min(seeds, classes) - 1.0),
        ),
    }
    return {
        name: special.stdtrit(df, 0.975) * np.sqrt(square / (seeds * classes)) for name, (square, df) in ways.items()
    }


def figures(repetitions: int) -> Iterator[Figure]:
    """Every setting's coverage, then the sizes of tests."""
    settings = [(name, spread, False) for name, spread in SINGLE.items()]
    settings += [(name, spread, True) for name, spread in PAIRED.items()]
    for number, (name, spread, paired) in enumerate(settings):
        for seeds, classes in product(SEEDS, CLASSES):
            draw = np.random.default_rng([number, seeds, classes])
            held = coverage(draw, repetitions, seeds, classes, spread, paired=paired)
            yield Figure(
                f"{name}, {'difference of two starts' if paired else 'one start'}: {seeds} seeds, {classes} classes",
                [held.pop("data")],
                "% of data intervals hold the truth",
                least=None if spread.skewed else 93,
                most=97 if is_usual(name, spread, seeds, classes) else None,
                notes={"other intervals, %": held, **found_with(repetitions, spread)},
            )
    yield from sizes(repetitions)


def is_usual(name: str, spread: Spread, seeds: int, classes: int) -> bool:
    """Whether coverage has a ceiling too; with less to go by, intervals err to the wide side."""
    return seeds >= 5 and classes >= 10 and not spread.skewed and name not in NOTHING_BUT_IMAGES


def sizes(repetitions: int) -> Iterator[Figure]:
    """How often tests find a difference that is not there: 10 seeds, 20 classes."""
    draw = np.random.default_rng(41)
    sets = [
        episodes(draw, 400, classes=20, images=600, n_way=5, n_query=15, sd=0.12) for _ in range(min(repetitions, FEW))
    ]
    held = [(e := estimate(found.tolist())).low <= MEAN <= e.high for found in sets]
    yield Figure(
        "400 episodes over one set of images, 20 classes of 600", [100 * float(np.mean(held))],
        "% of sampler intervals hold the truth", most=60, notes={"repetitions": len(held)},
    )  # fmt: skip
    alike = Spread(**SHARED, start_seeds=0.01, cells=0.03)
    found = accuracies(draw, repetitions, 10, 20, alike, (0.0, 0.0)).mean(axis=3).tolist()
    wrong = [p_value(paired_difference(*pair)) < 0.05 for pair in found]
    size, notes = 100 * float(np.mean(wrong)), found_with(repetitions, alike)
    yield Figure("paired test, equal starts", [size], "% of tests err", 4, 6, notes)
    differ = Spread(**SHARED, start_classes=0.04, start_seeds=0.01, cells=0.03)
    pairs = accuracies(draw, repetitions, 10, 20, differ, (0.0, 0.0))
    over_seeds = [p_value(paired_difference(*pair)) < 0.05 for pair in pairs.mean(axis=3).tolist()]
    over_both = [data_interval(pair[0] - pair[1]).p_value < 0.05 for pair in pairs]
    yield Figure(
        "paired test over seeds and classes, starts equal over all classes but not on these", [100 * float(np.mean(over_both))],
        "% of tests err", 3, 7,
        found_with(repetitions, differ) | {"over seeds alone, %": rounded(100 * float(np.mean(over_seeds)))},
    )  # fmt: skip
    several = accuracies(draw, repetitions, 10, 20, alike, (0.0,) * 7).mean(axis=3).tolist()
    tests = [[p_value(paired_difference(rows[0], other)) for other in rows[1:]] for rows in several]
    plainly = float(np.mean([min(each) < 0.05 for each in tests]))
    corrected = float(np.mean([min(holm(each)) < 0.05 for each in tests]))
    yield Figure(
        "one start against six equal ones, Holm's correction", [100 * corrected], "% of comparisons with an error", None, 6,
        found_with(repetitions, alike) | {"without correction, %": rounded(100 * plainly)},
    )  # fmt: skip


def found_with(repetitions: int, spread: Spread) -> dict[str, Any]:
    """What a percentage was found with; effects that are not named are zero."""
    return {"repetitions": repetitions, "spread": {name: size for name, size in asdict(spread).items() if size}}


def main() -> int:
    """A line of JSON for every setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10000)
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args()
    command = f"python benchmarks/interval_coverage.py --repetitions {given.repetitions}"
    record: dict[str, Any] = {"command": command, **circumstances(), "figures": []}
    for figure in figures(given.repetitions):
        print(to_line(figure), flush=True)
        record["figures"].append(figure.to_json())
    if given.out:
        given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return int(any(figure["holds"] is False for figure in record["figures"]))


if __name__ == "__main__":
    sys.exit(main())
