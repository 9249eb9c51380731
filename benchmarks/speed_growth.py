"""Whether time grows with the work and no faster, and memory not at all: populations of 4 to 64, 1 to 16 generations.

Every size has a process of its own, in which a small run came before: neither caches nor an allocator's habits pass from
size to size. Times are medians over the repetitions before a line is drawn through them.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from figure import Figure, measured_apart, rounded

from gtl import engine
from gtl.config import Config
from gtl.planning.calibration import peak_memory

POPULATIONS, GENERATIONS = (4, 8, 16, 32, 64), (1, 2, 4, 8, 16)


def measure(repetitions: int) -> Iterator[Figure]:
    """Largest departure from a straight line, and growth of memory, while one size grows."""
    for name, sizes, runs in (
        ("population", POPULATIONS, [(size, 1) for size in POPULATIONS]),
        ("generations", GENERATIONS, [(8, size) for size in GENERATIONS]),
    ):
        found: list[list[dict[str, float]]] = [[] for _ in sizes]
        for repetition in range(repetitions):
            order = list(zip(found, runs, strict=True))
            for samples, (population, generations) in order if repetition % 2 else order[::-1]:
                samples.append(measured_apart(__file__, population, generations, OMP_NUM_THREADS="1"))
                print(f"population {population}, {generations} generations: {samples[-1]}", file=sys.stderr, flush=True)
        seconds = [statistics.median(each["seconds"] for each in samples) for samples in found]
        line = np.polynomial.Polynomial.fit(sizes, seconds, 1, w=1 / np.asarray(seconds))
        departures = {size: float(line(size)) / each - 1 for size, each in zip(sizes, seconds, strict=True)}
        yield Figure(
            f"departure of time from a straight line, {name} {sizes[0]} to {sizes[-1]}",
            [max(map(abs, departures.values()))], "ratio", most=0.05,
            notes={
                "seconds": dict(zip(sizes, map(rounded, seconds), strict=True)),
                "departures": {size: rounded(each) for size, each in departures.items()}, "repetitions": repetitions,
            },
        )  # fmt: skip
        ratios = [last["peak"] / first["peak"] for first, last in zip(found[0], found[-1], strict=True)]
        megabytes = [rounded(statistics.median(each["peak"] for each in samples) / 1e6) for samples in found]
        yield Figure(
            f"peak memory, {name} {sizes[-1]} against {sizes[0]}", ratios, "ratio", most=1.1,
            notes={"MB": dict(zip(sizes, megabytes, strict=True))},
        )  # fmt: skip


def main() -> None:
    """One size, in this process: seconds of such a run, and the peak of memory in bytes."""
    population, generations = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    run(2, 1)  # imports, cached glyphs
    began = time.perf_counter()
    run(population, generations)
    print(json.dumps({"seconds": time.perf_counter() - began, "peak": peak_memory()}))


def run(population: int, generations: int) -> None:
    """Founders, and generations of short lives."""
    training = {"batch_size": 32}
    config = Config.model_validate({
        "name": "growth",
        "data": {"source": "glyphs", "images_per_class": 20, "train_classes": 20, "val_classes": 10, "novel_classes": 5},
        "model": {"width": 0.125},
        "founders": {"epochs": 1.0, "training": training},
        "gene": {"budget": 0.3, "initial_share": (0.1, 0.3)},
        "evolution": {"population": population, "search_generations": 0, "generations": generations, "max_failed": 1.0},
        "life": {"n_way": 20, "steps": 15, "training": training},
        "critic": {"tasks": 1, "fit_images": 5, "score_images": 10},
        "fewshot": {"shots": (5,), "test_images": 5},
        "compute": {"device": "cpu", "threads": 1},
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        engine.evolve(config, Path(folder) / "run", workers=1)


if __name__ == "__main__":
    main()
