"""How many jobs of which kind a run consists of: a real manager is driven with made-up outcomes and counted.

Where that would take too long, the same numbers come from a closed form. It takes every gene for a new one, which is
what large populations come close to.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from gtl.config import Config
from gtl.config_file import changed_config
from gtl.critic import critic_images, draw_tasks
from gtl.evolution.racing import rounds
from gtl.evolution.toolbox import HALL_SIZE
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.layout import ChannelLayout
from gtl.learngene.founders import ancestor_images, ancestor_steps
from gtl.learngene.oneshot import METHODS
from gtl.life import World
from gtl.population.journal import encode_rows
from gtl.population.manager import Manager

DRIVE_LIMIT = 3000  # jobs; a manager takes about a third of a millisecond for each
SAMPLE = 32  # individuals of the small run that stands for a large one
MANIFEST_BYTES, DIGEST_BYTES = 600, 67  # of a manifest without its blobs, and of a blob's name in it

Phase = Literal["founding", "search", "lives", "final"]


@dataclass(frozen=True)
class Round:
    """Generations that are alike, and what each of them asks for.

    Attributes:
        phase: which part of the run; ``final``: the last comparison.
        times: how many such generations.
        cuts: children that do not live: cut out of the ancestor (or a random network), or a litter's mean.
        lives: children that live.
        judged: genes that only meet critic tasks.
        tasks: critic tasks of every evaluation.
        race: ``(lives, steps of each)`` of every round of lives: heats first, where there are any, then the full lives.
    """

    phase: Phase
    times: int
    cuts: int
    lives: int
    judged: int
    tasks: int
    race: tuple[tuple[int, int], ...] = ()

    @property
    def births(self) -> int:
        """Children of one generation."""
        return self.cuts + self.lives

    @property
    def jobs(self) -> int:
        """Evaluations of one generation."""
        return self.births + self.judged

    @property
    def criticisms(self) -> int:
        """Critic tasks that genes meet in one generation; in a race each round's gene meets them."""
        return self.tasks * (self.cuts + self.judged + sum(lives for lives, _ in self.race))

    @property
    def steps(self) -> int:
        """Optimiser steps of one generation's lives, heats included."""
        return sum(lives * steps for lives, steps in self.race)


@dataclass(frozen=True)
class Plan:
    """What a run will do. An upper bound where `at_most` (patience may end it earlier); the finalists are an estimate.

    Attributes:
        workers: processes that evaluate side by side.
        driven: whether a real manager was counted; otherwise the closed form was.
        ancestor_steps: optimiser steps of the ancestor; 0 without one, or with a checkpoint.
        references: whole networks that the critic judges once.
        rounds: all evaluations, in order.
        images: training images, by part of the run: ``ancestor`` and ``lives`` as the learngene's provenance counts
            them, ``judging`` for references and finalists, where the critic trains.
        genes: gene files on disk at the fullest moment, the ancestor not counted.
        record_bytes: states, manifests and journals of all generations.
    """

    workers: int
    driven: bool
    at_most: bool
    ancestor_steps: int
    references: int
    rounds: tuple[Round, ...]
    images: dict[str, int]
    genes: int
    record_bytes: int

    def of(self, phase: Phase) -> tuple[Round, ...]:
        """The rounds of one phase."""
        return tuple(each for each in self.rounds if each.phase == phase)

    @property
    def generations(self) -> int:
        """Founding, search and lives; the last comparison is none."""
        return sum(each.times for each in self.rounds if each.phase != "final")

    @property
    def lives(self) -> int:
        """Children that live; in a race, most of them in heats only."""
        return sum(each.times * each.lives for each in self.rounds)

    @property
    def births(self) -> int:
        """Children of all generations."""
        return sum(each.times * each.births for each in self.rounds if each.phase != "final")

    @property
    def evaluations(self) -> int:
        """Jobs of all generations, without the finalists'."""
        return sum(each.times * each.jobs for each in self.rounds if each.phase != "final")

    @property
    def finalists(self) -> int:
        """Genes of the last comparison."""
        return sum(each.jobs for each in self.of("final"))

    @property
    def criticisms(self) -> int:
        """Critic tasks that genes meet, finalists' included."""
        return sum(each.times * each.criticisms for each in self.rounds)

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        phases = {
            phase: {
                "generations": sum(each.times for each in self.of(phase)),
                "births": sum(each.times * each.births for each in self.of(phase)),
                "lives": sum(each.times * each.lives for each in self.of(phase)),
                "judged_again": sum(each.times * each.judged for each in self.of(phase)),
                "evaluations": sum(each.times * each.jobs for each in self.of(phase)),
            }
            for phase in ("founding", "search", "lives")
        }
        return {
            "workers": self.workers,
            "at_most": self.at_most,
            "ancestor_steps": self.ancestor_steps,
            "generations": self.generations,
            "phases": phases,
            "births": self.births,
            "lives": self.lives,
            "evaluations": self.evaluations,
            "finalists": self.finalists,
            "criticisms": self.criticisms,
            "images": {**self.images, "total": sum(self.images.values())},
        }


def plan(world: World, workers: int = 1) -> Plan:
    """What the run of this world's configuration will do.

    Raises:
        DataError: a critic task that the validation classes do not give.
    """
    config = endless(world.config)
    founders, critic = config.founders, config.critic
    trained = founders.kind == "ancestor" and founders.checkpoint is None
    steps = ancestor_steps(config, len(world.train.labels)) if trained else 0
    references = 2 if founders.kind == "ancestor" else 1
    task_images = critic_images(draw_tasks(world.val, critic, 0, 1), critic)
    sections = config.evolution
    jobs = (1 + sections.search_generations + sections.generations) * sections.population
    counted = _driven(config, world.layout) if jobs <= DRIVE_LIMIT else _closed(config, world.layout)
    spent = sum(
        each.times * (each.steps * config.life.training.batch_size + each.criticisms * task_images)
        for each in counted.rounds
        if each.phase != "final"
    )
    closing = sum(each.jobs for each in counted.rounds if each.phase == "final") + references
    images = {
        "ancestor": ancestor_images(config, len(world.train.labels)) if trained else 0,
        "lives": spent,
        "judging": closing * critic.final_tasks * task_images,
    }
    return Plan(
        workers=workers,
        driven=jobs <= DRIVE_LIMIT,
        at_most=world.config.evolution.patience > 0,
        ancestor_steps=steps,
        references=references,
        rounds=counted.rounds,
        images=images,
        genes=counted.genes,
        record_bytes=counted.record_bytes,
    )


def endless(config: Config) -> Config:
    """The configuration without patience: its longest run."""
    return changed_config(config, evolution={"patience": 0})


def made_up(config: Config, layout: ChannelLayout) -> Manager:
    """A manager that needs no ancestor: its channels' ranks are their indices."""
    ranking = {group: np.arange(width, dtype=np.float64) for group, width in layout.groups.items()}
    if config.founders.kind == "random":
        return Manager(config, layout, None, {})
    return Manager(config, layout, _digest("ancestor"), dict.fromkeys(METHODS, ranking))


def outcome(job: Job) -> Outcome:
    """A made-up outcome of the size and shape of a real one; equal genes stay equal genes."""
    genes = [parent.gene for parent in job.parents]
    unchanged = not job.lives and len(genes) == 1 and job.parents[0].genotype == job.genotype
    parts = (json.dumps(job.genotype.to_json()), genes, job.seed if job.lives or not genes else "")
    gene = genes[0] if unchanged else _digest(*parts)
    fitness = int(_digest(gene, job.critic_seed)[:12], 16) / 16**12
    metrics = {"accuracy": fitness, "spread": 0.0, "share": fitness}
    return Outcome(job.individual, gene, Evaluation(Status.OK, fitness, metrics, 0, 1.2345678901234567))


@dataclass(frozen=True)
class _Counted:
    rounds: tuple[Round, ...]
    genes: int
    record_bytes: int


def _driven(config: Config, layout: ChannelLayout) -> _Counted:
    """Counts of a whole run with made-up outcomes."""
    manager = made_up(config, layout)
    counted: Counter[Round] = Counter()
    alive: list[set[str]] = []  # genes that the newest generations name, and the store keeps
    genes = record_bytes = 0
    while not manager.done:
        jobs = manager.ask()
        manager.tell(map(outcome, jobs))
        counted[_round(manager, jobs)] += 1
        state = manager.state()
        alive = [*alive[-2:], set(state["blobs"])]
        genes = max(genes, len(set().union(*alive)))
        record_bytes += _record_bytes(manager, state)
    final = manager.finalists()
    averages = sum(len(job.parents) > 1 for _, job in final)
    counted[Round("final", 1, averages, 0, len(final) - averages, config.critic.final_tasks)] += 1
    in_order = tuple(replace(each, times=times) for each, times in counted.items())  # of their first appearance
    return _Counted(in_order, genes + averages, record_bytes)


def _round(manager: Manager, jobs: Sequence[Job]) -> Round:
    names = {individual.id for individual in manager.population if individual.generation == manager.generation}
    born = [job for job in jobs if job.individual in names]
    lives = sum(job.lives for job in born)
    phase: Any = manager.phase
    tasks, race = manager.config.critic.tasks, _race(manager.config, lives)
    return Round(phase, 1, len(born) - lives, lives, len(jobs) - len(born), tasks, race)


def _race(config: Config, lives: int) -> tuple[tuple[int, int], ...]:
    return tuple(rounds(config.evolution.racing, lives, config.life.steps)) if lives else ()


def _record_bytes(manager: Manager, state: dict[str, Any]) -> int:
    """Bytes that one commit adds: state, manifest, and the journal's rows twice, in the journal and beside the state."""
    manifest = MANIFEST_BYTES + DIGEST_BYTES * len(state["blobs"])
    return _size(state) + manifest + 2 * len(encode_rows(manager.rows))


def _closed(config: Config, layout: ChannelLayout) -> _Counted:
    """The same from formulas; bytes are scaled up from a small run."""
    section, critic = config.evolution, config.critic
    births = section.population - section.tournament.elite
    judged = section.tournament.elite if critic.tasks_change else 0
    litters = -(-births // section.litter) + section.tournament.elite if section.crossover.average_siblings else 0
    planned: tuple[Round, ...] = (
        Round("founding", 1, section.population, 0, 0, critic.tasks),
        Round("search", section.search_generations, births, 0, judged, critic.tasks),
        Round("lives", section.generations, 0, births, judged, critic.tasks, _race(config, births)),
        Round("final", 1, litters, 0, section.population + HALL_SIZE, critic.final_tasks),
    )
    siblings = min(section.tournament.elite * (section.litter - 1), section.population)  # of survivors, dead themselves
    genes = section.population + 2 * births + siblings + HALL_SIZE + litters
    generations = 1 + section.search_generations + section.generations
    planned = tuple(each for each in planned if each.times and each.jobs)
    return _Counted(planned, genes, _scaled_bytes(config, layout, generations))


def _scaled_bytes(config: Config, layout: ChannelLayout, generations: int) -> int:
    """Bytes of all records, from a small run of the same kind; every state repeats the logbook so far."""
    section = config.evolution
    size = min(section.population, max(SAMPLE, min(section.litter, 4 * SAMPLE)))
    small = changed_config(
        config,
        evolution={
            "population": size,
            "litter": min(section.litter, size),
            "generations": 1,
            "search_generations": min(section.search_generations, 1),
            "tournament": {**section.tournament.model_dump(), "elite": min(section.tournament.elite, size - 1)},
        },
    )
    manager = made_up(small, layout)
    while not manager.done:
        manager.tell(map(outcome, manager.ask()))
    state = manager.state()
    row = _size(manager.logbook[-1])
    hall = _size(state["hall"])
    each = (_record_bytes(manager, state) - _size(manager.logbook) - hall) / size
    return round(generations * (each * section.population + hall) + row * generations * (generations + 1) / 2)


def sample_jobs(world: World, count: int) -> list[Job]:
    """Jobs of some founders, as a run would have them: what calibration measures on."""
    few = {"population": count, "litter": 1, "crossover": {}, "tournament": {"elite": 0}}
    return made_up(changed_config(world.config, evolution=few), world.layout).ask()


def _size(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":")))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
