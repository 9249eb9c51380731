"""The population manager: ask for jobs, tell their outcomes. Holds genotypes and numbers, no tensors, no generator state.

Generation 0 founds the population; then come the search generations (no lives) and the generations with lives. When
they are `done`, the best genes and the averages of litters are `finalists`: they meet one larger set of tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from gtl.config import Config
from gtl.errors import ClusterError, EvolutionError
from gtl.evolution.fitness import update_scores
from gtl.evolution.founding import EVEN, draw_allocation, even_channels, top_channels
from gtl.evolution.mutation import Ranking
from gtl.evolution.toolbox import HallOfFame, generation_statistics, make_toolbox
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Individual, Job, Outcome, ParentGene, Status
from gtl.layout import ChannelLayout
from gtl.lineage import birth_row, death_row, evaluation_row
from gtl.seeds import derive, rng

ANCESTOR = "ancestor"
FINAL = -1  # the generation number of finalists, who live after all generations


class Manager:
    """State machine of one run: ``ask`` and ``tell`` in turn, one pair a generation, until `done`.

    Args:
        config: the run's configuration.
        layout: of the hosts.
        ancestor: content hash of the ancestor's tensors (founders ``ancestor``), else None.
        rankings: score name -> group -> worth of each of the ancestor's channels.
        state: what `state` returned after the last whole generation, to go on from there.
        teacher: content hash of the ancestor's tensors that lives need, if they do (`gtl.population.founding.Ancestor`).
    """

    def __init__(
        self,
        config: Config,
        layout: ChannelLayout,
        ancestor: str | None,
        rankings: Mapping[str, Ranking],
        state: Mapping[str, Any] | None = None,
        teacher: str | None = None,
    ) -> None:
        self.config = config
        self.teacher = teacher
        self.layout = layout
        self.ancestor = None if ancestor is None else ParentGene(ANCESTOR, ancestor, layout.full())
        self.rankings = rankings
        self.toolbox = make_toolbox(config, layout, rankings.get("l1"))
        self.generation = -1 if state is None else int(state["generation"])
        self.phase = "" if state is None else str(state["phase"])
        self.population = [] if state is None else [Individual.from_json(i) for i in state["population"]]
        self.litters: dict[str, list[ParentGene]] = {}
        self.hall = HallOfFame()
        self.logbook: list[dict[str, Any]] = []
        self.images = 0
        self.seconds = 0.0
        if state is not None:
            self.litters = {k: [ParentGene.from_json(p) for p in v] for k, v in state["litters"].items()}
            self.hall = HallOfFame([Individual.from_json(i) for i in state["hall"]])
            self.logbook = list(state["logbook"])
            self.images, self.seconds = int(state["images"]), float(state["seconds"])
        self.rows: list[dict[str, Any]] = []
        self._asked: list[Individual] | None = None

    @property
    def done(self) -> bool:
        """Whether every generation has been told, or patience has run out."""
        evolution = self.config.evolution
        last = evolution.search_generations + evolution.generations
        return self.generation >= last or self._out_of_patience()

    def ask(self) -> list[Job]:
        """Jobs of the next generation.

        Raises:
            RuntimeError: asked twice without telling, or after the end.
        """
        if self._asked is not None:
            raise RuntimeError("ask() was called again before tell()")
        if self.done:
            raise RuntimeError("the evolution is finished; there is nothing to ask for")
        generation = self.generation + 1
        phase = self._phase_of(generation)
        self._births: list[tuple[Individual, Job]] = []
        survivors: list[Individual] = []
        if phase == "founding":
            self._found(generation)
        else:
            survivors = self.toolbox.elite(self.population)
            self._breed(generation, self.config.evolution.population - len(survivors), lives=phase == "lives")
        jobs = [job for _, job in self._births]
        if self.config.critic.tasks_change:  # survivors meet the new tasks too, or scores would not compare
            jobs += [self._job(s, (self._gene(s),), generation, lives=False) for s in survivors]
        self._asked = [individual for individual, _ in self._births] + survivors
        self._next = (generation, phase)
        return jobs

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take the outcomes of all jobs, in any order, and finish the generation.

        Raises:
            RuntimeError: not asked, an outcome that was not asked for, or one that is missing.
            EvolutionError: too large a share of the generation failed.
            ClusterError: the same, most of it since workers died or did not answer.
        """
        if self._asked is None:
            raise RuntimeError("tell() was called without calling ask()")
        generation, phase = self._next
        members = {individual.id: individual for individual in self._asked}
        born = {individual.id for individual, _ in self._births}
        expected = set(members) if self.config.critic.tasks_change else born
        told = {}
        for outcome in outcomes:
            if outcome.individual not in expected or outcome.individual in told:
                raise RuntimeError(f"outcome for {outcome.individual}, which was not asked for or came twice")
            told[outcome.individual] = outcome
        if missing := expected - set(told):
            raise RuntimeError(f"no outcome for {sorted(missing)}")
        rows = [birth_row(individual) for individual, _ in self._births]
        for individual in self._asked:  # in the order asked: the order of arrival never shows
            if (arrived := told.get(individual.id)) is None:
                continue
            individual.evaluation = arrived.evaluation
            individual.gene = arrived.gene if arrived.evaluation.ok else individual.gene
            self.images += arrived.evaluation.images
            self.seconds += arrived.evaluation.seconds
        self._refuse_failure(generation)
        update_scores(self._asked, generation, self.layout, self.config.evolution.score)
        rows += [evaluation_row(i, generation) for i in self._asked if i.id in told]
        rows += [death_row(i.id, generation, "not selected") for i in self.population if i.id not in members]
        rows += [death_row(i.id, generation, i.evaluation.reason) for i in self._asked if i.evaluation and not i.ok]
        self.population = [individual for individual in self._asked if individual.ok]
        self._remember_litters()
        self.hall.update([i for i in self.population if i.id in born])
        record = generation_statistics(self._asked, self.layout)
        best = max(self.population, key=lambda i: (i.score, i.id))
        record |= {"generation": generation, "phase": phase, "best": best.id, "images": self.images}
        record |= {"best_score": best.score, "best_share": self.layout.circuit_share(best.genotype.counts)}
        self.logbook.append(record)
        self.generation, self.phase, self.rows, self._asked = generation, phase, rows, None

    def state(self) -> dict[str, Any]:
        """Everything that `Manager(state=...)` needs, as JSON, with the content hashes of all live tensors."""
        individuals = [*self.population, *self.hall.individuals]
        genes = {i.gene for i in individuals} | {p.gene for litter in self.litters.values() for p in litter}
        if self.ancestor is not None:
            genes.add(self.ancestor.gene)
        if self.teacher is not None:
            genes.add(self.teacher)
        return {
            "generation": self.generation,
            "phase": self.phase,
            "population": [i.to_json() for i in self.population],
            "hall": [i.to_json() for i in self.hall.individuals],
            "litters": {name: [p.to_json() for p in litter] for name, litter in self.litters.items()},
            "logbook": self.logbook,
            "images": self.images,
            "seconds": self.seconds,
            "blobs": sorted(genes),
        }

    def finalists(self) -> list[tuple[Individual, Job]]:
        """Who competes to be the learngene: the population, the hall of fame, and (where siblings are averaged) the
        average of every living litter.

        Each is a new individual without a life of its own, with a critic-only job on ``critic.final_tasks`` tasks.
        """
        if not self.done:
            raise RuntimeError("the evolution is not finished; ask and tell until done")
        genes = {i.gene: (self._gene(i),) for i in [*self.population, *self.hall.individuals]}
        averaging = self.config.evolution.crossover.average_siblings
        averages = [tuple(litter) for litter in self.litters.values() if averaging and len(litter) > 1]
        self._births = []
        for number, parents in enumerate([*genes.values(), *averages]):
            ids = tuple(parent.individual for parent in parents)
            self._add_birth(FINAL, number, parents[0].genotype, parents, str(number), lives=False, parents=ids)
        return self._births

    def _phase_of(self, generation: int) -> str:
        evolution = self.config.evolution
        if generation == 0:
            return "founding"
        if generation <= evolution.search_generations:
            return "search"
        return "lives"

    def _out_of_patience(self) -> bool:
        """Whether the last `patience` generations with lives brought no better score than the ones before."""
        patience = self.config.evolution.patience
        scores = [row["best_score"] for row in self.logbook if row["phase"] == "lives"]
        return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])

    def _found(self, generation: int) -> None:
        methods, allocations = self.config.founders.channels, self.config.founders.allocations
        for number in range(self.config.evolution.population):
            draw = rng(self.config.seed, "founder", number)
            counts = draw_allocation(draw, self.layout, self.config.gene, allocations[number % len(allocations)])
            method = methods[number % len(methods)]
            if self.ancestor is None:
                genotype = Genotype(
                    {g: ChannelMask(w, draw.choice(w, counts[g], replace=False)) for g, w in self.layout.groups.items()}
                )
            elif method == EVEN:
                genotype = even_channels(counts, self.layout.groups)
            else:
                genotype = top_channels(counts, self.rankings[method])
            parents = () if self.ancestor is None else (self.ancestor,)
            self._add_birth(generation, number, genotype, parents, str(number), lives=False, parents=())

    def _breed(self, generation: int, births: int, *, lives: bool) -> None:
        evolution = self.config.evolution
        litter_size = evolution.litter if lives else 1  # without lives the siblings of a litter would be equal
        conceptions = math.ceil(births / litter_size)
        draw = rng(self.config.seed, "breed", generation)
        chosen = self.toolbox.select(self.population, draw, k=conceptions)
        number = 0
        for conception, parent in enumerate(chosen):
            draw = rng(self.config.seed, "conception", generation, conception)
            genotype, genes, crossed = parent.genotype, self._passed_on(parent), False
            if draw.random() < evolution.crossover.exchange:
                (mate,) = self.toolbox.select(self.population, draw, k=1)
                genotype, _ = self.toolbox.mate(genotype, mate.genotype, draw)
                if crossed := mate.id != parent.id:
                    genes = (self._gene(parent), self._gene(mate))
            rate = evolution.mutation.rate if lives else evolution.mutation.search_rate
            if draw.random() < rate:
                (genotype,) = (self.toolbox.mutate if lives else self.toolbox.search_mutate)(genotype, draw)
            elif crossed:  # two parents' channels may exceed the budget together
                genotype = self.toolbox.fit(genotype, draw)
            parents = (parent.id, *(gene.individual for gene in genes if gene.individual != parent.id))
            if not lives and self.ancestor is not None:
                genes = (self.ancestor,)  # before its first life a gene is a cut of the ancestor
            for _ in range(min(litter_size, births - number)):
                self._add_birth(generation, number, genotype, genes, str(conception), lives, parents)
                number += 1

    def _add_birth(
        self,
        generation: int,
        number: int,
        genotype: Genotype,
        genes: tuple[ParentGene, ...],
        litter: str,
        lives: bool,
        parents: tuple[str, ...],
    ) -> None:
        label = "final" if generation == FINAL else f"g{generation:04d}"
        individual = Individual(
            id=f"{label}-i{number:04d}",
            generation=generation,
            genotype=genotype,
            parents=parents,
            litter=f"{label}-l{litter}",
        )
        self._births.append((individual, self._job(individual, genes, generation, lives)))

    def _job(self, individual: Individual, genes: tuple[ParentGene, ...], generation: int, lives: bool) -> Job:
        seed = self.config.seed
        critic = self.config.critic
        tasks_of = "final" if generation == FINAL else generation if critic.tasks_change else "fixed"
        task = generation if self.config.life.task == "shared" else individual.id
        return Job(
            individual=individual.id,
            generation=generation,
            genotype=individual.genotype,
            parents=genes,
            lives=lives,
            seed=derive(seed, "individual", individual.id),
            critic_seed=derive(seed, "critic", tasks_of),
            critic_tasks=critic.final_tasks if generation == FINAL else critic.tasks,
            task_seed=derive(seed, "environment", task),
            teacher=self.teacher if lives else None,
        )

    def _passed_on(self, parent: Individual) -> tuple[ParentGene, ...]:
        """The genes that a parent's child is born with: its own, or all of its litter's, to be averaged."""
        litter = self.litters.get(parent.litter, [])
        if self.config.evolution.crossover.average_siblings and len(litter) > 1:
            return tuple(litter)
        return (self._gene(parent),)

    @staticmethod
    def _gene(individual: Individual) -> ParentGene:
        return ParentGene(individual.id, individual.gene, individual.genotype)

    def _remember_litters(self) -> None:
        """Keep the genes of every litter that still has a living member: siblings of a survivor count though dead."""
        litters: dict[str, list[ParentGene]] = {}
        for individual in self.population:
            if individual.litter in self.litters:
                litters[individual.litter] = self.litters[individual.litter]
            else:
                litters.setdefault(individual.litter, []).append(self._gene(individual))
        self.litters = litters

    def _refuse_failure(self, generation: int) -> None:
        assert self._asked is not None
        failed = [i for i in self._asked if not i.ok]
        if len(failed) > self.config.evolution.max_failed * len(self._asked) or len(failed) == len(self._asked):
            reasons = sorted({i.evaluation.reason for i in failed if i.evaluation})
            gone = [i for i in failed if i.evaluation and i.evaluation.status in (Status.LOST, Status.TIMED_OUT)]
            error = ClusterError if 2 * len(gone) > len(failed) else EvolutionError  # whose fault was it
            raise error(
                f"generation {generation}: {len(failed)} of {len(self._asked)} individuals failed "
                f"(evolution.max_failed is {self.config.evolution.max_failed}). Causes: {'; '.join(reasons[:3])}"
            )
