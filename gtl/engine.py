"""Evolve a learngene: the whole story on one page. Start reading here.

`evolve` starts a run, `resume` goes on with one; both end in `_drive`, the main loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtl.config import Config
from gtl.config_file import config_hash, dump_config, load_config
from gtl.individual import Outcome
from gtl.learngene.artifact import Learngene
from gtl.learngene.founders import check_checkpoint
from gtl.life import World
from gtl.population.condense import condense
from gtl.population.founding import found
from gtl.population.manager import Manager
from gtl.population.observer import Observer, Observers
from gtl.population.outcomes import RememberingEvaluator
from gtl.population.processes import end_leftovers, record
from gtl.population.progress import ProgressFile
from gtl.population.racing import RacingEvaluator
from gtl.population.run import (
    LEFTOVERS,
    check_data,
    extended,
    next_run,
    publish_learngene,
    read_config,
    read_lineage,
    read_record,
    write_record,
)
from gtl.population.signals import Signals
from gtl.population.store import RunStore, refuse_used
from gtl.population.workforce import Employed, employ, settle
from gtl.tuning import tune, write_calibration, written_down
from gtl.world import make_world

KEEP_GENERATIONS = 2  # whose genes stay on disk; journal and states of all stay


@dataclass(frozen=True)
class Result:
    """What a finished run gives.

    Attributes:
        run: its directory.
        learngene: the gene it evolved; also in the directory, as ``learngene.safetensors``.
        logbook: one record a generation.
    """

    run: Path
    learngene: Learngene
    logbook: Sequence[dict[str, Any]]


def evolve(
    config: Config | str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    address: str | None = None,
    observer: Observer | None = None,
) -> Result:
    """Evolve a learngene, in a new run directory.

    Args:
        config: a Config, or the path of a YAML file.
        out: the run directory, new or empty. By default the next one under ``populations/<name>/runs/``.
        overrides: ``"section.key=value"``, when `config` is a path.
        workers: worker processes; by default as many as the configuration or the machine has room for. One: this process.
        address: a Ray cluster to evolve on: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.

    Raises:
        ConfigError, DataError: refused before anything is trained.
        ClusterError: the cluster is not reachable, or its workers die faster than they work.
        StorageError: the disk failed; the last whole generation is intact and `resume` goes on from it.
        EvolutionError: too much of a generation failed.
        StoppedError: SIGTERM or Ctrl-C; what was finished is saved.
    """
    observer = observer or Observer()
    config = config if isinstance(config, Config) else load_config(config, overrides)
    path = Path(out) if out is not None else next_run(config.name)
    with Signals() as signals, signals.interruptible():
        config, force = settle(config, workers, address)
        world = make_world(config, computes=force.in_process)
        check_checkpoint(world)
        refuse_used(path)
        world, tuning = tune(world, force, observer.message)
        with employ(force, world, signals, observer.workers) as employed:
            world = written_down(world, employed.versions)
            text, digest = dump_config(world.config), config_hash(world.config)
            with signals.deferred():
                store = RunStore.create(path, config_text=text, config_hash=digest, versions=employed.versions)
                write_calibration(store.path, tuning)
            with store.lock(observer.message):
                return _drive(store, world, employed, signals, observer)


def resume(
    run: str | Path,
    *,
    generations: int | None = None,
    workers: int | None = None,
    address: str | None = None,
    observer: Observer | None = None,
) -> Result:
    """Go on with a run from where it was; it ends bit-identical to the uninterrupted run.

    Args:
        generations: extend the run to this many generations with lives.
        workers, address: as for `evolve`; another number or another cluster than before changes nothing in the result.
    """
    observer = observer or Observer()
    store = RunStore.open(Path(run))
    config = read_config(store.path)
    store.check_config(config_hash(config))
    with Signals() as signals, signals.interruptible(), store.lock(observer.message):
        config, force = settle(extended(config, store.path, generations), workers, address)
        world = make_world(config, computes=force.in_process)
        end_leftovers(read_record(store.path / LEFTOVERS))
        with employ(force, world, signals, observer.workers) as employed:
            for change in store.version_changes(employed.versions):
                observer.message(f"warning: {change}; the result may differ in its last bits")
            return _drive(store, world, employed, signals, observer)


def _drive(store: RunStore, world: World, employed: Employed, signals: Signals, watcher: Observer) -> Result:
    """The main loop: ask, evaluate, tell, commit. Then the finalists meet, and the best becomes the learngene."""
    signals.run = str(store.path)
    with signals.deferred(), _watched(watcher, store, employed) as observer:
        check_data(store.path, world)
        evaluator = _evaluator(employed, store, world)
        ancestor = found(world, evaluator, store, observer.message)
        latest = store.latest()
        manager = Manager(
            world.config, world.layout, ancestor.digest, ancestor.rankings, latest and latest[1], ancestor.teacher
        )
        manager.toolbox.register("evaluate", evaluator.evaluate)
        observer.started(manager, ancestor, store.path)
        while not manager.done:
            jobs = manager.ask()
            observer.asked(jobs)
            manager.tell(_observed(manager.toolbox.evaluate(jobs), observer))
            store.commit(manager.generation, manager.state(), manager.rows)
            store.prune(KEEP_GENERATIONS)
            observer.generation(manager)
        learngene = condense(manager, evaluator, store.blobs, read_lineage(store), world, ancestor)
        publish_learngene(store, learngene)
        return Result(store.path, learngene, manager.logbook)


def _evaluator(employed: Employed, store: RunStore, world: World) -> RacingEvaluator:
    """Races lives, if asked to; remembers what is finished; the workforce computes the rest, in the same packs."""
    inner = employed.evaluator(store.blobs)
    return RacingEvaluator(RememberingEvaluator(inner, store, world.config.compute.pack), world)


@contextmanager
def _watched(observer: Observer, store: RunStore, employed: Employed) -> Iterator[Observer]:
    """Whoever watches, and the progress file for those who watch from elsewhere."""
    both = Observers(observer, ProgressFile(store.path))
    employed.report_to(both.workers)
    if employed.processes:
        write_record(store.path / LEFTOVERS, record(employed.processes))
    for warning in employed.warnings:
        both.message(f"warning: {warning}")
    try:
        yield both
        both.finished()
    except BaseException as error:
        both.stopped(str(error) or type(error).__name__)
        raise


def _observed(outcomes: Iterable[Outcome], observer: Observer) -> Iterator[Outcome]:
    for outcome in outcomes:
        observer.evaluated(outcome)
        if outcome.evaluation.ok and outcome.evaluation.reason:
            observer.message(f"warning: {outcome.individual}: {outcome.evaluation.reason}")
        yield outcome
