"""Who evaluates: this process, worker processes of this machine, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gtl.config import Config
from gtl.errors import ConfigError
from gtl.life import World
from gtl.machine import cores, usual_threads
from gtl.population.blobs import BlobStore
from gtl.population.evaluator import Evaluator, InProcessEvaluator
from gtl.population.observer import WorkerReport
from gtl.population.pool_evaluator import PoolEvaluator
from gtl.population.signals import Signals
from gtl.population.worker import plain, prepare
from gtl.versions import versions

ANCESTOR_THREADS = 16  # at most: each must have some images of a batch
Report = Callable[[WorkerReport], None]


@dataclass(frozen=True)
class Workforce:
    """How many workers, and where.

    Attributes:
        workers: at most so many: there may be less room, and more than individuals would have nothing to do.
        address: of a running cluster; None: this machine.
        gpus: GPUs of this machine that workers compute on.
    """

    workers: int
    address: str | None = None
    gpus: int = 0

    @property
    def in_process(self) -> bool:
        """Whether this process is all there is to use."""
        return self.address is None and self.workers == 1


@dataclass(frozen=True)
class Employed:
    """A workforce at work.

    Attributes:
        versions: what it computes with.
        evaluator: makes an evaluator of a run's blobs.
        warnings: sentences that whoever started the run should read.
        processes: of this machine, which a killed driver would leave behind.
        report_to: sends news of the workers elsewhere from now on.
    """

    versions: Mapping[str, str]
    evaluator: Callable[[BlobStore], Evaluator]
    warnings: tuple[str, ...] = ()
    processes: tuple[int, ...] = ()
    report_to: Callable[[Report], None] = lambda report: None


def settle(config: Config, workers: int | None = None, address: str | None = None) -> tuple[Config, Workforce]:
    """Decide who evaluates, and fix in the configuration what results depend on: the CPU threads of workers and ancestor.

    Args:
        workers: worker processes; None: ``cluster.workers``, and where that is 0 as many as there is room for.
        address: of a running cluster.

    Raises:
        ConfigError: fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: at least one is needed")
    asked, threads, population = workers or config.cluster.workers, config.compute.threads, config.evolution.population
    if address is not None:
        return _settled(config, threads or 1, workers=None), Workforce(min(asked or population, population), address)
    gpus = 0 if config.compute.device == "cpu" or not torch.cuda.is_available() else torch.cuda.device_count()
    if config.compute.device.startswith("cuda:"):
        gpus = min(1, gpus)
    room = gpus * config.cluster.workers_per_gpu if gpus else cores() // threads if threads else 1
    count = max(1, min(asked or room, population))
    settled = threads or (torch.get_num_threads() if count == 1 else max(1, cores() // count))
    alone = 1 if count == 1 and not threads else None  # one worker with all threads: so it is when resumed
    ancestors = max(settled, min(usual_threads(), ANCESTOR_THREADS))  # the others wait, however many
    return _settled(config, settled, workers=alone, ancestors=ancestors), Workforce(count, None, gpus)


def _settled(config: Config, threads: int, *, workers: int | None, ancestors: int | None = None) -> Config:
    cluster = config.cluster if workers is None else config.cluster.model_copy(update={"workers": workers})
    compute = config.compute.model_copy(update={"threads": threads})
    founders = config.founders.model_copy(update={"threads": config.founders.threads or ancestors or threads})
    return config.model_copy(update={"compute": compute, "cluster": cluster, "founders": founders})


@contextmanager
def employ(force: Workforce, world: World, signals: Signals, report: Report) -> Iterator[Employed]:
    """Workers, greeted and ready; they end with the block.

    Args:
        world: its images are sent to every node once.
        report: told whenever something about the workers changes.

    Raises:
        ClusterError: the cluster is not reachable, or no worker can be started.
    """
    if force.in_process:
        yield Employed(versions(world.compute), lambda genes: InProcessEvaluator(world, genes, signals))
        return
    from gtl.population.ray_pool import RayPool, Room

    config = world.config
    room = Room(
        address=force.address,
        workers=force.workers,
        device=config.compute.device,
        # Ray of this machine counts workers, not cores: each takes one of as many as there are to be.
        cpus=1 if force.address is None else config.compute.threads,
        gpus=1.0 / config.cluster.workers_per_gpu,
        own_gpus=force.gpus,
    )
    with RayPool(room, config.cluster, prepare, plain(world), signals=signals, report=report) as pool:
        first, *others = pool.facts
        yield Employed(
            first,
            lambda genes: PoolEvaluator(pool, genes, config.compute.pack),
            (*pool.warnings, *_differences(first, others)),
            tuple(pool.processes),
            lambda other: setattr(pool, "report", other),
        )


def _differences(first: Mapping[str, str], others: list[Mapping[str, str]]) -> tuple[str, ...]:
    """Sentences about workers that compute with something else than the first."""
    return tuple(
        f"workers differ in {name}: {first.get(name, 'none')} and {facts.get(name, 'none')}; last bits depend on who meets whom"
        for facts in others
        for name in sorted({*first, *facts})
        if facts.get(name) != first.get(name)
    )
