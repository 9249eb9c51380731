"""The same lives as trials of Ray Tune, as individuals of gtl: lives an hour of two workers with one thread each.

Tune gets what its documentation recommends for this: a function trainable, the images once by `tune.with_parameters`, one
CPU a trial. It trains by gtl's own code (which tells what the engine around it is worth) and by the plain loop.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figure import Figure, rounded
from speed_sides import WORKS, Work, make, world_of

from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Job
from gtl.life import World, evaluate
from gtl.population.blobs import BlobStore
from gtl.population.pool_evaluator import PoolEvaluator
from gtl.population.ray_pool import RayPool, Room
from gtl.population.ray_pool.connection import connect
from gtl.population.signals import Signals
from gtl.population.worker import PlainWorld, plain, prepare

WORKERS, STEPS = 2, 150
LEAST = {"gtl's training code": 1.2, "a plain loop": 2.5}


def measure(name: str, repetitions: int) -> Iterator[Figure]:
    """Lives an hour of both, and their ratios within each repetition."""
    import ray
    from ray import tune

    kind = WORKS[name]
    work = Work(kind.arch, kind.width, steps=STEPS, loop_steps=STEPS, family=kind.family)
    world = world_of(work, threads=1)
    shared = plain(world)
    connect(Room(workers=WORKERS + 1))
    rates: dict[str, list[float]] = {"gtl": [], **{f"Tune with {code}": [] for code in LEAST}}
    lives = 4 * WORKERS
    try:
        for _ in range(repetitions):
            with (
                Signals() as signals,
                RayPool(Room(workers=WORKERS), world.config.cluster, prepare, shared, signals=signals) as pool,
            ):
                began = time.perf_counter()  # workers start on this clock, as Tune's do
                outcomes = list(PoolEvaluator(pool, BlobStore()).evaluate([job(world, n) for n in range(lives)]))
                rates["gtl"].append(3600 * lives / (time.perf_counter() - began))
                if not all(outcome.evaluation.ok for outcome in outcomes):
                    raise RuntimeError(f"lives failed: {outcomes}")
            for code, trainable in (
                ("gtl's training code", tune.with_parameters(engine_trial, shared=shared)),
                ("a plain loop", tune.with_parameters(plain_trial, work=work)),
            ):
                with tempfile.TemporaryDirectory() as folder:
                    tuner = tune.Tuner(
                        tune.with_resources(trainable, {"cpu": 1}),
                        param_space={"number": tune.grid_search(list(range(lives)))},
                        tune_config=tune.TuneConfig(max_concurrent_trials=WORKERS),
                        run_config=tune.RunConfig(storage_path=str(Path(folder)), verbose=0),
                    )
                    began = time.perf_counter()
                    results = tuner.fit()
                    rates[f"Tune with {code}"].append(3600 * lives / (time.perf_counter() - began))
                    if results.num_errors:
                        raise RuntimeError(f"{results.num_errors} trials failed: {results.errors[0]}")
    finally:
        ray.shutdown()
    about = {"lives": lives, "steps": STEPS, "workers": WORKERS, "threads of each": 1}
    for side, found in rates.items():
        yield Figure(f"{name}: {side}", found, "lives an hour", notes=about)
    for code, least in LEAST.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["gtl"], rates[f"Tune with {code}"], strict=True)]
        yield Figure(
            f"{name}: gtl against Tune with {code}", ratios, "ratio", least=least,
            notes={"pairs": [rounded(ratio) for ratio in ratios]},
        )  # fmt: skip


def job(world: World, number: int) -> Job:
    """A life that all sides live: a founder's, so that no parent has to be sent."""
    masks = {group: ChannelMask(width, range(max(1, width // 2))) for group, width in world.layout.groups.items()}
    return Job(f"t-{number}", 1, Genotype(masks), (), lives=True, seed=number, critic_seed=1, critic_tasks=3,
               task_seed=1)  # fmt: skip


def engine_trial(config: dict[str, Any], shared: PlainWorld) -> dict[str, float]:
    """One life, judged, by gtl's own code."""
    os.environ["OMP_NUM_THREADS"] = "1"
    _, world = prepare(shared)
    _, evaluation = evaluate(job(world, config["number"]), (), world)
    return {"fitness": evaluation.fitness}


def plain_trial(config: dict[str, Any], work: Work) -> dict[str, float]:
    """One training as users write it, not judged."""
    turn = make("plain-unwarmed", work, threads=1)
    return {"images": float(turn())}
