"""What the driver itself costs for each individual, and how busy it keeps 64 slots.

The real loop of a run (manager, remembering evaluator, pool, store on a disk, progress file), with lives that sleep.
"""

from __future__ import annotations

import heapq
import math
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sleeping
from figure import Figure, rounded

from gtl.config import ClusterSection, Config
from gtl.engine import KEEP_GENERATIONS, _observed
from gtl.models import gene_layout, spec_of
from gtl.population import pool_evaluator
from gtl.population.manager import Manager
from gtl.population.observer import WorkerReport
from gtl.population.outcomes import RememberingEvaluator
from gtl.population.pool_evaluator import PoolEvaluator
from gtl.population.progress import ProgressFile
from gtl.population.ray_pool import RayPool, Room
from gtl.population.retry import Call
from gtl.population.signals import Signals
from gtl.population.store import RunStore

T = TypeVar("T")
PLAN = ((100, 0.5, 1.5, 8), (1_000, 0.5, 1.5, 4), (10_000, 0.2, 0.6, 1))  # population, shortest, longest, generations
SMALL = ((20, 0.1, 0.3, 2), (60, 0.1, 0.3, 1), (200, 0.05, 0.15, 1))
SLOTS = 64
GENE = 4096  # bytes of a made-up gene
REAL_GENE = 860_000  # bytes of a gene of a quarter-width VGG11 at a budget of 20 %
WAITING = "waiting for workers"


class Stopwatch:
    """Where the main thread's time goes: wall clock and CPU, each moment charged to the innermost part alone."""

    def __init__(self) -> None:
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()
        self._open = ["the rest"]
        self._thread = threading.get_ident()
        self._last = self._now()

    def part(self, name: str) -> Stopwatch:
        """``with`` it: charge what happens inside to `name`."""
        self._charge()
        self._open.append(name)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._charge()
        self._open.pop()

    def watched(self, name: str, function: Callable[..., T]) -> Callable[..., T]:
        """`function`, charged to `name`."""

        def watching(*args: Any, **kwargs: Any) -> T:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            with self.part(name):
                return function(*args, **kwargs)

        return watching

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """`items`, whose making is charged to `name`."""
        iterator = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _charge(self) -> None:
        now = self._now()
        self.wall[self._open[-1]] += now[0] - self._last[0]
        self.cpu[self._open[-1]] += now[1] - self._last[1]
        self._last = now

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.thread_time()


@dataclass
class Watched:
    """Something whose functions and generators are charged to a stopwatch, as `names` and `each` call them."""

    thing: Any
    watch: Stopwatch
    names: dict[str, str] = field(default_factory=dict)
    each: dict[str, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.thing, name)
        if name in self.each:
            return lambda *args: self.watch.each(self.each[name], found(*args))
        return self.watch.watched(self.names[name], found) if name in self.names else found


@dataclass(frozen=True)
class Generation:
    """What one generation took."""

    jobs: int
    wall: float
    evaluating: float
    cpu: float
    parts: dict[str, tuple[float, float]]
    ideal: float


def measure(small: bool) -> Iterator[Figure]:
    """All figures of the driver."""
    slots = 8 if small else SLOTS
    plan = SMALL if small else PLAN
    reports: list[WorkerReport] = []
    with (
        # ext4 looks long for a free inode where many files were just removed: all runs are removed together at the end
        tempfile.TemporaryDirectory() as folder,
        Signals() as signals,
        RayPool(
            Room(workers=slots), ClusterSection(), sleeping.prepare, None, signals=signals, report=reports.append
        ) as pool,
    ):
        while not reports or reports[-1].ready < slots:  # start-up is not what is measured here
            list(pool.run([Call(f"wake-{n}", "wake", sleeping.wake) for n in range(slots)]))
        costs = {}
        for population, low, high, lived in plan:
            generations = run(pool, population, (low, high), lived, GENE, slots, Path(folder) / f"{population}")
            costs[population] = sum(g.cpu for g in generations) / len(generations)
            yield from figures(f"{population} individuals", generations, slots, (low, high), GENE)
        (n, less), (m, more) = list(costs.items())[-2:]
        yield Figure(
            f"growth of the driver's CPU time from {n} to {m} individuals, against linear",
            [more / less / (m / n)], "ratio", most=1.1,
        )  # fmt: skip
        population, low, high, _ = plan[1]
        generations = run(pool, population, (low, high), 1, REAL_GENE, slots, Path(folder) / "real")
        yield from figures(f"{population} individuals, genes of real size", generations, slots, (low, high), REAL_GENE)


def figures(
    name: str, generations: Sequence[Generation], slots: int, sleeps: tuple[float, float], gene: int
) -> Iterator[Figure]:
    """Of one population size: cost of an individual, and how busy the slots were."""
    jobs = sum(g.jobs for g in generations)
    wall, cpu = Counter[str](), Counter[str]()
    for generation in generations:
        for part, (seconds, on_cpu) in generation.parts.items():
            wall[part] += seconds
            cpu[part] += on_cpu
    busy = (sum(wall.values()) - wall[WAITING]) / jobs
    shown = {part: [rounded(1e3 * wall[part] / jobs), rounded(1e3 * cpu[part] / jobs)] for part in sorted(wall)}
    bounded = {} if gene == REAL_GENE else {"most": 3.0}
    about = {"slots": slots, "sleeps": f"uniform {sleeps[0]}-{sleeps[1]} s", "gene bytes": gene}
    yield Figure(
        f"driver's CPU time per individual, {name}",
        [1e3 * g.cpu / g.jobs for g in generations], "ms", **bounded,
        notes={**about, "includes": "all threads of the driver's process, Ray's too",
               "main thread, ms wall and CPU": shown, "busy ms of wall clock, disk included": rounded(1e3 * busy)},
    )  # fmt: skip
    yield Figure(
        f"efficiency, {name}",
        [g.ideal / g.evaluating for g in generations], "of the ideal schedule",
        **({} if gene == REAL_GENE else {"least": 0.95}),
        notes={**about, "with ask, tell and commit": [rounded(g.ideal / g.wall) for g in generations],
               "seconds": [rounded(g.evaluating) for g in generations]},
    )  # fmt: skip


def run(
    pool: RayPool, population: int, sleeps: tuple[float, float], lived: int, size: int, slots: int, folder: Path
) -> list[Generation]:
    """A founding generation and `lived` with lives, as `gtl.engine` drives them, with the run's files in `folder`."""
    config = Config.model_validate({
        "name": "sleepers", "data": {"source": "glyphs"}, "model": {"width": 0.25},
        "evolution": {"population": population, "search_generations": 0, "generations": lived, "litter": 3,
                      "crossover": {"average_siblings": True}},
    })  # fmt: skip
    layout = gene_layout("vgg11", dict(spec_of("vgg11", num_classes=10, width=0.25).widths))
    watch, found = Stopwatch(), []
    pool_evaluator.live = sleeping.sleeper(*sleeps, size)
    with watching(pool, watch):
        store = RunStore.create(folder, config_text="", config_hash="none", versions={})
        with store.lock():
            evaluator = PoolEvaluator(Watched(pool, watch, each={"run": "pool"}), store.blobs)
            evaluator = RememberingEvaluator(Watched(evaluator, watch, each={"evaluate": "genes to the store"}), store)
            ancestor = store.blobs.put_bytes(os.urandom(size))
            manager = Manager(config, layout, ancestor, {})
            observer = ProgressFile(store.path)
            while not manager.done:
                watch.wall.clear()
                watch.cpu.clear()
                began, process = time.perf_counter(), time.process_time()
                with watch.part("manager.ask"):
                    jobs = manager.ask()
                observer.asked(jobs)
                asked = time.perf_counter()
                with watch.part("manager.tell"):
                    outcomes = watch.each("log of outcomes", evaluator.evaluate(jobs))
                    finished = Finish(_observed(outcomes, observer))
                    manager.tell(finished)
                with watch.part("store.commit"):
                    store.commit(manager.generation, manager.state(), manager.rows)
                    store.prune(KEEP_GENERATIONS)
                observer.generation(manager)
                watch._charge()
                refuse_torch(manager)
                parts = {name: (watch.wall[name], watch.cpu[name]) for name in watch.wall}
                found.append(Generation(
                    len(jobs), time.perf_counter() - began, finished.at - asked, time.process_time() - process,
                    parts, ideal([sleeping.drawn(job, *sleeps) for job in jobs], slots),
                ))  # fmt: skip
            observer.finished()
    return found


class Finish:
    """Items, and when the last one came."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items, self.at = items, math.nan

    def __iter__(self) -> Iterator[Any]:
        yield from self._items
        self.at = time.perf_counter()


@contextmanager
def watching(pool: RayPool, watch: Stopwatch) -> Iterator[None]:
    """Charge what the pool asks of Ray, and the disk, to parts of their own."""
    names = {"wait": WAITING, "get": "results from Ray", "put": "parents to Ray"}
    ray, sync = pool._ray, os.fsync
    pool._ray, os.fsync = Watched(ray, watch, names), watch.watched("waiting for the disk", sync)
    try:
        yield
    finally:
        pool._ray, os.fsync = ray, sync


def ideal(seconds: Sequence[float], slots: int) -> float:
    """When the last one is done if each begins, in this order, at the moment that a slot is free."""
    free = [0.0] * slots
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def refuse_torch(manager: Manager) -> None:
    """The workers' word that torch was not there, or this would measure something else."""
    if any(i.evaluation.metrics["torch"] for i in manager.population if i.evaluation):
        raise RuntimeError("torch was imported in a worker")
