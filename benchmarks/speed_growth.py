"""Whether time grows with the work and no faster, and memory not at all: populations of 4 to 64, 1 to 16 generations."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from figure import Figure, rounded

from gtl import engine
from gtl.config import Config

POPULATIONS, GENERATIONS = (4, 8, 16, 32, 64), (1, 2, 4, 8, 16)


def measure(repetitions: int) -> Iterator[Figure]:
    """Largest departure from a straight line, and growth of memory, in one process."""
    torch.set_num_threads(1)
    run(4, 1)  # imports, cached glyphs
    for name, sizes, configured in (
        ("population", POPULATIONS, lambda size: (size, 1)),
        ("generations", GENERATIONS, lambda size: (8, size)),
    ):
        departures, seconds = [], []
        memory: dict[int, float] = {}
        for _ in range(repetitions):
            found = times(sizes, configured, memory)
            seconds.append([rounded(each) for each in found])
            line = np.polynomial.Polynomial.fit(sizes, found, 1, w=1 / np.asarray(found))
            departures.append(max(abs(float(line(size)) / each - 1) for size, each in zip(sizes, found, strict=True)))
        yield Figure(
            f"departure of time from a straight line, {name} {sizes[0]} to {sizes[-1]}", departures, "ratio", most=0.05,
            notes={"sizes": sizes, "seconds": seconds},
        )  # fmt: skip
        yield Figure(
            f"memory at the end, {name} {sizes[-1]} against {sizes[0]}", [memory[sizes[-1]] / memory[sizes[0]]], "ratio",
            most=1.1, notes={"MB": {size: rounded(each / 1e6) for size, each in memory.items()}},
        )  # fmt: skip


def times(
    sizes: tuple[int, ...], configured: Callable[[int], tuple[int, int]], memory: dict[int, float]
) -> list[float]:
    """Seconds of a run of each size."""
    found = []
    for size in sizes:
        began = time.perf_counter()
        run(*configured(size))
        found.append(time.perf_counter() - began)
        gc.collect()
        memory[size] = resident()
    return found


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


def resident() -> float:
    """Bytes of this process in memory."""
    return 1024.0 * int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
