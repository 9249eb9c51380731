"""Real lives: two workers against one on two cores, each with one thread. In turns, since the machine has moods."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ray
from figure import Figure, rounded

from gtl.config_file import changed_config, load_config
from gtl.evolution.founding import draw_allocation
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Job, ParentGene
from gtl.life import World
from gtl.population.blobs import BlobStore
from gtl.population.pool_evaluator import PoolEvaluator
from gtl.population.processes import descendants
from gtl.population.ray_pool import RayPool, Room
from gtl.population.ray_pool.connection import connect
from gtl.population.signals import Signals
from gtl.population.worker import plain, prepare
from gtl.seeds import rng
from gtl.world import make_world

CONFIG = Path(__file__).parents[1] / "configs" / "glyphs_generations.yaml"
LEAST = 1.8


def measure(small: bool) -> Iterator[Figure]:
    """Lives per second of two workers as a multiple of those of one."""
    lives, repetitions = (1, 2) if small else (4, 5)  # of each worker; an odd one out would idle the other
    config = changed_config(load_config(CONFIG), compute={"threads": 1, "device": "cpu"})
    world = make_world(config, computes=False)
    ratios, disturbance, rates = [], [], {1: list[float](), 2: list[float]()}
    connect(Room(workers=3))  # both pools in one Ray: neither is started or ended between their turns
    try:
        with (
            Signals() as signals,
            RayPool(Room(workers=1), config.cluster, prepare, plain(world), signals=signals) as one,
            RayPool(Room(workers=2), config.cluster, prepare, plain(world), signals=signals) as two,
        ):
            genes = BlobStore()
            warm(two, 2, world, genes)
            parents = warm(one, 1, world, genes)
            for repetition in range(repetitions):
                order = [(one, 1), (two, 2)]
                speed = {}
                for pool, workers in order if repetition % 2 else order[::-1]:
                    jobs = [job(world, n, parents) for n in range(lives * workers)]
                    began, before = time.monotonic(), others()
                    outcomes = list(PoolEvaluator(pool, genes).evaluate(jobs))
                    took = time.monotonic() - began
                    speed[workers] = len(outcomes) / took
                    disturbance.append((others() - before) / took)
                    rates[workers].append(speed[workers])
                    if not all(outcome.evaluation.ok for outcome in outcomes):
                        raise RuntimeError(f"lives failed: {outcomes}")
                ratios.append(speed[2] / speed[1])
    finally:
        ray.shutdown()
    yield Figure(
        "lives per second of two workers, against one", ratios, "ratio", least=LEAST,
        notes={"lives of each worker in a turn": lives, "config": CONFIG.name, "threads of a worker": 1,
               "cores that other programs used": [rounded(max(0.0, cores)) for cores in disturbance],
               "lives per second": {workers: [rounded(rate) for rate in found] for workers, found in rates.items()}},
    )  # fmt: skip


def others() -> float:
    """CPU seconds that programs other than this one and its workers have used: Ray's workers are nice and give way."""
    ticks = sum(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:4]))
    for pid in (os.getpid(), *descendants(os.getpid())):
        with suppress(OSError):
            ticks -= sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def warm(pool: RayPool, workers: int, world: World, genes: BlobStore) -> tuple[ParentGene, ...]:
    """Let every worker live once; a gene that came of it."""
    ready = 0

    def told(report: object) -> None:
        nonlocal ready
        ready = report.ready  # type: ignore[attr-defined]

    pool.report = told
    while ready < workers:
        outcomes = list(PoolEvaluator(pool, genes).evaluate([job(world, n, ()) for n in range(workers)]))
    return (ParentGene("parent", outcomes[0].gene, job(world, 0, ()).genotype),)


def job(world: World, number: int, parents: tuple[ParentGene, ...]) -> Job:
    """A life as a run has them; all of one size, so that none makes the others wait."""
    draw = rng(0, "benchmark", 0)
    counts = draw_allocation(draw, world.layout, world.config.gene, world.config.founders.allocations[0])
    genotype = Genotype({g: ChannelMask(w, range(counts[g])) for g, w in world.layout.groups.items()})
    return Job(f"b-{number}", 1, genotype, parents, lives=True, seed=number, critic_seed=1, critic_tasks=1, task_seed=1)
