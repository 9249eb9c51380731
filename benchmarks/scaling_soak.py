"""Does a driver grow? Many tiny generations through the real engine; after each, what the driver holds is counted.

As a script it soaks, and prints a line of JSON for each generation: python scaling_soak.py RUN GENERATIONS
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from figure import Figure

from gtl import engine
from gtl.config import Config
from gtl.population.manager import Manager
from gtl.population.observer import Observer
from gtl.population.processes import descendants

SETTLED = 20  # generations, after which everything has been imported and every buffer made
WINDOW = 5  # generations on either side
Sample = dict[str, int]


def tiny(generations: int) -> Config:
    """Lives of one step in networks of a few channels."""
    training = {"batch_size": 8, "crop_padding": 1}
    return Config.model_validate({
        "name": "soak",
        "data": {"source": "glyphs", "image_size": 28, "images_per_class": 8,
                 "train_classes": 4, "val_classes": 4, "novel_classes": 4},
        "model": {"width": 0.0625},
        "gene": {"budget": 0.5, "initial_share": (0.1, 0.5)},
        "founders": {"epochs": 1.0, "training": training},
        "evolution": {"population": 6, "search_generations": 1, "generations": generations - 1, "litter": 2,
                      "tournament": {"size": 2, "elite": 2}, "crossover": {"average_siblings": True}},
        "life": {"n_way": 3, "steps": 1, "training": training},
        "critic": {"fit_images": 3, "score_images": 4},
        "fewshot": {"shots": (3,), "test_images": 4},
        "compute": {"device": "cpu", "precision": "float32", "threads": 1},
    })  # fmt: skip


class Sampler(Observer):
    """Counts after every generation."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def generation(self, manager: Manager) -> None:
        """Garbage is no growth."""
        gc.collect()
        self.samples.append(sample())
        print(json.dumps({"generation": manager.generation, **self.samples[-1]}), flush=True)


def sample() -> Sample:
    """What this process holds, and what it and its workers hold in shared memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident": 1024 * int(status["VmRSS"].split()[0]),
        "threads": threading.active_count(),
        "all threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
        "shared": shared(),
        "processes": len(descendants(os.getpid())),
    }


def shared() -> int:
    """Bytes in /dev/shm that this process and those below it hold; most of its files have no name any more."""
    found = {}
    for pid in [os.getpid(), *descendants(os.getpid())]:
        folder = Path(f"/proc/{pid}/fd")
        with suppress(OSError):
            for name in os.listdir(folder):
                with suppress(OSError):
                    if os.readlink(folder / name).startswith("/dev/shm/"):
                        entry = os.stat(folder / name)
                        found[entry.st_dev, entry.st_ino] = 512 * entry.st_blocks
    return sum(found.values())


def soak(run: Path, generations: int, workers: int = 2) -> list[Sample]:
    """Evolve; a sample for every generation, the founding one included."""
    sampler = Sampler()
    engine.evolve(tiny(generations), run, workers=workers, observer=sampler)
    return sampler.samples


def growth(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """What it was about generation 20, and at the end."""
    early = [each[name] for each in samples[SETTLED - WINDOW : SETTLED + WINDOW + 1]]
    return statistics.median(early), statistics.median(each[name] for each in samples[-2 * WINDOW - 1 :])


def measure(small: bool) -> Iterator[Figure]:
    """Growth of everything that could leak."""
    with tempfile.TemporaryDirectory() as folder:
        samples = soak(Path(folder) / "run", 40 if small else 200)
    about = {"generations": len(samples) - 1, "workers": 2, "lives a generation": 4}
    for name, title, most in (
        ("resident", "the driver's resident memory", 1.1),
        ("files", "the driver's open files", 1.0),
        ("threads", "the driver's threads of Python", 1.0),
        ("all threads", "all threads of the driver's process", None),  # gRPC's pool breathes: 27 to 29
        ("processes", "processes below the driver", 1.0),
    ):
        early, late = growth(samples, name)
        notes = {**about, f"at generation {SETTLED}": early, "at the end": late}
        yield Figure(f"growth of {title}", [late / early], "ratio", most=most, notes=notes)
    early, late = growth(samples, "shared")
    notes = {**about, f"at generation {SETTLED}": early, "at the end": late}
    yield Figure("growth of shared memory", [(late - early) / 1e6], "MB", most=1.0, notes=notes)


if __name__ == "__main__":
    soak(Path(sys.argv[1]), int(sys.argv[2]))
