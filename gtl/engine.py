"""Evolve a learngene: the whole story on one page. Start reading here.

`evolve` starts a run, `resume` goes on with one; both end in `_drive`, the main loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from gtl.population.evaluator import InProcessEvaluator
from gtl.population.founding import found
from gtl.population.manager import Manager
from gtl.population.observer import Observer
from gtl.population.run import check_data, extended, next_run, publish_learngene, read_config, read_lineage
from gtl.population.store import RunStore
from gtl.versions import versions
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
    observer: Observer | None = None,
) -> Result:
    """Evolve a learngene, in a new run directory.

    Args:
        config: a Config, or the path of a YAML file.
        out: the run directory, new or empty. By default the next one under ``populations/<name>/runs/``.
        overrides: ``"section.key=value"``, when `config` is a path.

    Raises:
        ConfigError, DataError: refused before anything is trained.
        StorageError: the disk failed; the last whole generation is intact and `resume` goes on from it.
        EvolutionError: too much of a generation failed.
    """
    settled = config if isinstance(config, Config) else load_config(config, overrides)
    world = make_world(settled)
    check_checkpoint(world)
    store = RunStore.create(
        Path(out) if out is not None else next_run(settled.name),
        config_text=dump_config(settled),
        config_hash=config_hash(settled),
        versions=versions(world.compute.device),
    )
    return _drive(store, world, observer or Observer())


def resume(run: str | Path, *, generations: int | None = None, observer: Observer | None = None) -> Result:
    """Go on with a run from its last whole generation; it ends bit-identical to the uninterrupted run.

    Args:
        generations: extend the run to this many generations with lives.
    """
    store = RunStore.open(Path(run))
    config = read_config(store.path)
    store.check_config(config_hash(config))
    with store.lock():
        config = extended(config, store.path, generations)
    world = make_world(config)
    for change in store.version_changes(versions(world.compute.device)):
        (observer or Observer()).message(f"warning: {change}; the result may differ in its last bits")
    return _drive(store, world, observer or Observer())


def _drive(store: RunStore, world: World, observer: Observer) -> Result:
    """The main loop: ask, evaluate, tell, commit. Then the finalists meet, and the best becomes the learngene."""
    with store.lock():
        check_data(store.path, world)
        ancestor = found(world, store, observer.message)
        latest = store.latest()
        manager = Manager(world.config, world.layout, ancestor.digest, ancestor.rankings, latest and latest[1])
        evaluator = InProcessEvaluator(world, store.blobs)
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


def _observed(outcomes: Iterable[Outcome], observer: Observer) -> Iterator[Outcome]:
    for outcome in outcomes:
        observer.evaluated(outcome)
        yield outcome
