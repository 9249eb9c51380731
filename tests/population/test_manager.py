"""The manager's protocol, its bookkeeping, and that nothing of a run hangs on the order in which outcomes arrive."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from pico import GROUPS, config

from gtl.errors import EvolutionError
from gtl.evolution.mutation import Ranking
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.lineage import Lineage
from gtl.models import gene_layout
from gtl.population.manager import FINAL, Manager

LAYOUT = gene_layout("vgg11", dict.fromkeys(GROUPS["vgg11"], 6))
ANCESTOR = "a" * 64
Fate = Callable[[Job], Outcome]


def rankings() -> dict[str, Ranking]:
    draw = np.random.default_rng(0)
    return {method: {g: draw.permutation(6).astype(float) for g in LAYOUT.groups} for method in ("l1", "bn", "random")}


def manager(state: dict[str, Any] | None = None, *, ancestor: bool = True, **evolution: Any) -> Manager:
    sections = {key: evolution.pop(key) for key in ("critic", "life", "founders", "gene", "seed") if key in evolution}
    settled = config(evolution={"generations": 3, **evolution}, **sections)
    return Manager(settled, LAYOUT, ANCESTOR if ancestor else None, rankings() if ancestor else {}, state)


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def fate(job: Job) -> Outcome:
    """What an evaluator would say: a function of the job. Fitness comes in coarse steps, so there are ties."""
    unchanged = not job.lives and len(job.parents) == 1 and job.parents[0].genotype == job.genotype
    genes = [parent.gene for parent in job.parents]
    gene = genes[0] if unchanged else digest(job.genotype.to_json(), genes, job.seed if job.lives else "")
    fitness = int(digest(gene, job.critic_seed), 16) % 7 / 10
    seconds = int(digest(job.individual), 16) % 997 / 331  # sums of such numbers hang on their order
    return Outcome(job.individual, gene, Evaluation(Status.OK, fitness, {}, 100 if job.lives else 0, seconds))


def failing(names: Iterable[str], reason: str = "loss nan") -> Fate:
    bad = set(names)

    def judge(job: Job) -> Outcome:
        failure = Outcome(job.individual, "", Evaluation(Status.DIVERGED, images=7, reason=reason))
        return failure if job.individual in bad else fate(job)

    return judge


def step(each: Manager, judge: Fate = fate) -> list[Job]:
    jobs = each.ask()
    each.tell(map(judge, jobs))
    return jobs


def generations(each: Manager, judge: Fate = fate) -> Iterator[list[Job]]:
    """One generation after the other, each one's jobs after it was told."""
    while not each.done:
        yield step(each, judge)


def finished(each: Manager, judge: Fate = fate) -> list[list[Job]]:
    """All generations' jobs, after the last."""
    return list(generations(each, judge))


# --- protocol ------------------------------------------------------------------------------------------------------


def test_ask_and_tell_take_turns() -> None:
    each = manager()
    with pytest.raises(RuntimeError, match=r"tell\(\) was called without"):
        each.tell([])
    jobs = each.ask()
    with pytest.raises(RuntimeError, match=r"ask\(\) was called again"):
        each.ask()
    with pytest.raises(RuntimeError, match="not finished"):
        each.finalists()
    each.tell(map(fate, jobs))
    with pytest.raises(RuntimeError, match=r"tell\(\) was called without"):
        each.tell(map(fate, jobs))
    finished(each)
    with pytest.raises(RuntimeError, match="finished; there is nothing to ask for"):
        each.ask()


def test_outcomes_are_exactly_those_asked_for() -> None:
    each = manager()
    outcomes = [fate(job) for job in each.ask()]
    stranger = Outcome("g0009-i0000", "b" * 64, Evaluation(Status.OK, 0.5))
    before = each.state()
    for wrong, message in (
        (outcomes[:-1], "no outcome for .*g0000-i0003"),
        ([], "no outcome for"),
        ([*outcomes, stranger], "outcome for g0009-i0000, which was not asked for"),
        ([*outcomes, outcomes[0]], "came twice"),
    ):
        with pytest.raises(RuntimeError, match=message):
            each.tell(wrong)
        assert each.state() == before, "a refused tell changes nothing"
    each.tell(outcomes)
    assert each.generation == 0


def test_a_survivor_that_meets_no_new_tasks_is_not_told() -> None:
    each = manager(critic={"tasks_change": False})
    step(each)
    (elite,) = each.toolbox.elite(each.population)
    jobs = each.ask()
    with pytest.raises(RuntimeError, match=f"outcome for {elite.id}, which was not asked for"):
        each.tell([*map(fate, jobs), Outcome(elite.id, elite.gene, Evaluation(Status.OK, 0.1))])


def test_outcomes_may_be_a_stream() -> None:
    each = manager()
    jobs = each.ask()
    each.tell(fate(job) for job in jobs)
    assert len(each.population) == 4


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_arrival_never_shows(seed: int) -> None:
    settings: dict[str, Any] = {
        "population": 7, "litter": 2, "search_generations": 1, "tournament": {"size": 2, "elite": 2},
        "crossover": {"exchange": 0.5, "average_siblings": True}, "score": {"credit": 0.3, "decay": 0.8},
    }  # fmt: skip
    straight, shuffled = manager(**settings), manager(**settings)
    mixed = random.Random(seed)
    while not straight.done:
        jobs = straight.ask()
        assert shuffled.ask() == jobs
        outcomes = [fate(job) for job in jobs]
        straight.tell(outcomes)
        shuffled.tell(mixed.sample(outcomes, len(outcomes)))
        assert shuffled.state() == straight.state() and shuffled.rows == straight.rows
    assert [job for _, job in straight.finalists()] == [job for _, job in shuffled.finalists()]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"founders": {"kind": "random"}, "ancestor": False},
        {
            "population": 7, "litter": 3, "search_generations": 2, "tournament": {"size": 2, "elite": 3},
            "crossover": {"exchange": 0.5, "average_siblings": True}, "score": {"credit": 0.3, "decay": 0.8},
        },
        {"critic": {"tasks_change": False}, "generations": 6, "patience": 2},
    ],
)  # fmt: skip
def test_a_state_through_json_goes_on_identically(settings: dict[str, Any]) -> None:
    """From every generation, though scores tie."""
    settings = {**settings, "score": {**settings.get("score", {}), "size_exponent": 0.0}}
    straight = manager(**settings)
    states, rows = [], []
    while not straight.done:
        step(straight, failing(["g0001-i0001"]))
        states.append(json.dumps(straight.state(), allow_nan=False))
        rows.append(straight.rows)
    final = straight.finalists()
    assert len({individual.score for individual in straight.hall.individuals}) < len(straight.hall.individuals), "ties"
    for number, state in enumerate(states):
        resumed = manager(json.loads(state), **settings)
        assert json.dumps(resumed.state()) == state and resumed.generation == number
        for later in range(number + 1, len(states)):
            step(resumed, failing(["g0001-i0001"]))
            assert json.dumps(resumed.state()) == states[later] and resumed.rows == rows[later]
        assert resumed.done and resumed.finalists() == final


def test_a_run_is_a_function_of_its_seed() -> None:
    runs = [finished(manager(seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


# --- founding and searching ----------------------------------------------------------------------------------------


def test_founders_are_cuts_of_the_ancestor_by_each_score_in_turn() -> None:
    each = manager(population=6, founders={"channels": ("bn", "l1")})
    jobs = step(each)
    assert [job.individual for job in jobs] == [f"g0000-i{n:04d}" for n in range(6)]
    for number, job in enumerate(jobs):
        assert not job.lives and [parent.gene for parent in job.parents] == [ANCESTOR]
        assert job.parents[0].genotype == LAYOUT.full()
        ranking = rankings()["bn" if number % 2 == 0 else "l1"]
        for group, mask in job.genotype.items():
            assert min(ranking[group][mask.kept]) > max(ranking[group][mask.dropped], default=-1)
        assert LAYOUT.circuit_share(job.genotype.counts) <= 0.5
    assert len({job.genotype for job in jobs}) > 3 and all(i.parents == () for i in each.population)


def test_random_founders_have_no_parents() -> None:
    each = manager(ancestor=False, founders={"kind": "random"})
    for job in step(each):
        assert job.parents == () and not job.lives
    children = [job for job in step(each) if job.individual.startswith("g0001")]
    assert children and all(job.lives and len(job.parents) == 1 for job in children)


def test_search_generations_have_no_lives_and_cut_the_ancestor() -> None:
    each = manager(search_generations=2, litter=2, population=5)
    phases = []
    for jobs in generations(each):
        phases.append(each.logbook[len(phases)]["phase"])
        for job in (job for job in jobs if job.individual.startswith(f"g{len(phases) - 1:04d}")):
            assert job.lives is (phases[-1] == "lives")
            if phases[-1] == "search":
                assert [parent.gene for parent in job.parents] == [ANCESTOR]
        litters = Counter(i.litter for i in each.population if i.generation == each.generation)
        assert max(litters.values()) == (2 if phases[-1] == "lives" else 1), "siblings that do not live are one"
    assert phases == ["founding", "search", "search", "lives", "lives", "lives"]


# --- elites, litters, averages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks_change", [True, False])
def test_elites_pass_unchanged(tasks_change: bool) -> None:
    each = manager(tournament={"size": 2, "elite": 2}, population=5, critic={"tasks_change": tasks_change})
    step(each)
    for _ in range(3):
        elites = [(i.id, i.gene, i.genotype, i.generation) for i in each.toolbox.elite(each.population)]
        jobs = step(each)
        assert len(elites) == 2 and len(each.population) == 5
        known = {i.id: (i.id, i.gene, i.genotype, i.generation) for i in each.population}
        assert [known[name] for name, *_ in elites] == elites
        asked = [job for job in jobs if job.individual in {name for name, *_ in elites}]
        assert len(asked) == (2 if tasks_change else 0) and len(jobs) == 3 + len(asked)
        for job in asked:
            assert not job.lives and [p.gene for p in job.parents] == [known[job.individual][1]]


@pytest.mark.parametrize("tasks_change", [True, False])
def test_all_of_a_generation_meet_the_same_critic_tasks(tasks_change: bool) -> None:
    each = manager(critic={"tasks_change": tasks_change, "tasks": 2, "final_tasks": 5})
    generations = finished(each)
    seeds = [{job.critic_seed for job in jobs} for jobs in generations]
    assert all(len(found) == 1 for found in seeds)
    assert len(set.union(*seeds)) == (len(seeds) if tasks_change else 1)
    assert {job.critic_tasks for jobs in generations for job in jobs} == {2}
    final = [job for _, job in each.finalists()]
    assert {job.critic_tasks for job in final} == {5} and len({job.critic_seed for job in final}) == 1
    assert final[0].critic_seed not in set.union(*seeds)


@pytest.mark.parametrize("task", ["individual", "shared"])
def test_seeds_of_lives(task: str) -> None:
    born = [
        [job for job in jobs if job.lives] for jobs in finished(manager(population=6, litter=2, life={"task": task}))
    ]
    lives = [job for jobs in born for job in jobs]
    assert len({job.seed for job in lives}) == len(lives)
    assert len({job.task_seed for job in lives}) == (len(lives) if task == "individual" else 3)


@pytest.mark.parametrize("average", [True, False])
def test_litters_share_genotype_and_parents_and_are_averaged(average: bool) -> None:
    each = manager(
        population=8, litter=3, tournament={"size": 2, "elite": 1}, mutation={"rate": 1.0},
        crossover={"average_siblings": average},
    )  # fmt: skip
    previous: dict[str, list[str]] = {}
    genes_of: dict[str, str] = {}
    averaged = 0
    for jobs in generations(each):
        by_id = {job.individual: job for job in jobs}
        born = [i for i in each.population if i.generation == each.generation]
        litters: dict[str, list[Any]] = {}
        for individual in each.population:
            genes_of[individual.id] = individual.gene
        for individual in born:
            litters.setdefault(individual.litter, []).append(individual)
        if by_id[born[0].id].lives:
            assert sorted(map(len, litters.values())) == [1, 3, 3], "seven births in litters of three"
        for siblings in litters.values():
            assert len({i.genotype for i in siblings}) == len({i.parents for i in siblings}) == 1
            assert len({by_id[i.id].parents for i in siblings}) == 1
            assert len({by_id[i.id].seed for i in siblings}) == len({i.gene for i in siblings}) == len(siblings)
            job = by_id[siblings[0].id]
            if job.lives:
                litter = next(members for members in previous.values() if job.parents[0].individual in members)
                expected = litter if average else [job.parents[0].individual]
                assert [p.individual for p in job.parents] == expected
                assert [p.gene for p in job.parents] == [genes_of[name] for name in expected]
                assert len({p.genotype for p in job.parents}) == 1
                assert sorted(siblings[0].parents) == sorted(expected), "whose genes it was born with"
                averaged += len(job.parents) > 1
        for name, siblings in litters.items():
            previous[name] = [i.id for i in siblings]
    assert (averaged > 0) is average


def test_a_survivors_dead_siblings_still_count() -> None:
    """An elite's litter is remembered whole, while it lives."""
    each = manager(population=3, litter=2, tournament={"size": 1, "elite": 1}, crossover={"average_siblings": True})
    step(each)
    step(each)
    (elite,) = each.toolbox.elite(each.population)
    litter = [i for i in each.population if i.litter == elite.litter]
    while each.generation < 3:
        step(each)
        for name, members in each.litters.items():
            assert any(i.litter == name for i in each.population)
            if name == elite.litter:
                assert [p.individual for p in members] == [i.id for i in litter]
    blobs = set(each.state()["blobs"])
    assert {p.gene for members in each.litters.values() for p in members} <= blobs


def test_exchange_has_two_parents_and_keeps_the_budget() -> None:
    each = manager(
        population=8, litter=2, crossover={"exchange": 1.0, "average_siblings": True}, mutation={"rate": 0.0}, seed=4
    )
    genes: dict[str, str] = {}
    crossed = 0
    for jobs in generations(each):
        for job in jobs:
            assert LAYOUT.circuit_share(job.genotype.counts) <= 0.5
            child = next(i for i in each.population if i.id == job.individual)
            if job.lives and len({p.genotype for p in job.parents}) == 2:
                crossed += 1
                assert child.parents == tuple(p.individual for p in job.parents)
                assert [genes[name] for name in child.parents] == [p.gene for p in job.parents]
        genes |= {i.id: i.gene for i in each.population}
    assert crossed > 5


# --- ending --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_a_run_that_gets_no_better(patience: int) -> None:
    def level(job: Job) -> Outcome:
        found = fate(job)
        return Outcome(found.individual, found.gene, Evaluation(Status.OK, 0.5))

    each = manager(generations=20, patience=patience, search_generations=3, score={"size_exponent": 0.0})
    finished(each, level)
    lives = [row for row in each.logbook if row["phase"] == "lives"]
    assert len(lives) == patience + 1, "search generations do not count"
    endless = manager(generations=9, patience=0, score={"size_exponent": 0.0})
    finished(endless, level)
    assert endless.generation == 9


def test_patience_waits_while_it_gets_better() -> None:
    def rising(job: Job) -> Outcome:
        found = fate(job)
        return Outcome(found.individual, found.gene, Evaluation(Status.OK, job.generation / 10))

    each = manager(generations=6, patience=1, score={"size_exponent": 0.0})
    finished(each, rising)
    assert each.generation == 6


def test_finalists_are_every_gene_once_and_the_averages() -> None:
    each = manager(
        population=6, litter=3, crossover={"average_siblings": True}, tournament={"size": 2, "elite": 2}, generations=4
    )
    finished(each)
    final = each.finalists()
    assert each.finalists() == final, "asking again gives the same"
    single = [job for _, job in final if len(job.parents) == 1]
    averages = [job for _, job in final if len(job.parents) > 1]
    known = {i.gene for i in (*each.population, *each.hall.individuals)}
    assert sorted(job.parents[0].gene for job in single) == sorted(known)
    assert len(averages) == sum(len(litter) > 1 for litter in each.litters.values()) > 0
    for individual, job in final:
        assert not job.lives and individual.generation == job.generation == FINAL and individual.id == job.individual
        assert individual.genotype == job.genotype and {p.genotype for p in job.parents} == {job.genotype}
        assert individual.parents == tuple(parent.individual for parent in job.parents)
        assert LAYOUT.circuit_share(job.genotype.counts) <= 0.5
    assert len({job.individual for _, job in final}) == len(final)


# --- failures ------------------------------------------------------------------------------------------------------


def test_the_failed_leave_and_are_replaced() -> None:
    each = manager(population=6)
    step(each, failing(["g0000-i0001", "g0000-i0004"]))
    assert [i.id for i in each.population] == [f"g0000-i{n:04d}" for n in (0, 2, 3, 5)]
    assert each.logbook[-1]["failed"] == 2 and each.logbook[-1]["individuals"] == 6
    for _ in range(3):
        jobs = step(each)
        assert len(jobs) == len(each.population) == 6
        parents = {parent.individual for job in jobs for parent in job.parents}
        assert not parents & {"g0000-i0001", "g0000-i0004"}
    assert not any(i.id in {"g0000-i0001", "g0000-i0004"} for i in each.hall.individuals)


def test_an_elite_that_fails_is_dropped() -> None:
    each = manager(population=6)
    step(each)
    (elite,) = each.toolbox.elite(each.population)
    step(each, failing([elite.id]))
    assert elite.id not in {i.id for i in each.population} and len(each.population) == 5
    deaths = [row["id"] for row in each.rows if row["event"] == "death"]
    assert Counter(deaths)[elite.id] == 1


@pytest.mark.parametrize(
    ("share", "failed", "ends"), [(0.5, 2, False), (0.5, 3, True), (1.0, 3, False), (1.0, 4, True)]
)
def test_too_many_failures_end_the_run_and_name_the_cause(share: float, failed: int, ends: bool) -> None:
    each = manager(max_failed=share)
    judge = failing([f"g0000-i{n:04d}" for n in range(failed)], reason="the host's training diverged (loss nan)")
    if not ends:
        step(each, judge)
        assert len(each.population) == 4 - failed
        return
    with pytest.raises(EvolutionError) as caught:
        step(each, judge)
    message = str(caught.value)
    assert f"generation 0: {failed} of 4 individuals failed" in message
    assert "the host's training diverged (loss nan)" in message and f"evolution.max_failed is {share}" in message


# --- records -------------------------------------------------------------------------------------------------------


def test_the_journal_replays_and_the_numbers_add_up() -> None:
    each = manager(population=6, litter=2, generations=4, crossover={"average_siblings": True, "exchange": 0.3})
    bad = failing(["g0000-i0002", "g0002-i0001", "g0003-i0004"])
    rows, images, seconds = [], 0, 0.0
    while not each.done:
        jobs = each.ask()
        outcomes = [bad(job) for job in jobs]
        each.tell(outcomes)
        rows += each.rows
        images += sum(outcome.evaluation.images for outcome in outcomes)
        seconds += sum(outcome.evaluation.seconds for outcome in outcomes)
    lineage = Lineage.from_rows(json.loads(json.dumps(rows, allow_nan=False)))
    assert each.images == images == each.logbook[-1]["images"] and each.seconds == pytest.approx(seconds)
    alive = {name for name, life in lineage.items() if life.died is None}
    assert alive == {i.id for i in each.population}
    assert {name for name, life in lineage.items() if life.died and life.died[1] == "loss nan"} == {
        "g0000-i0002", "g0002-i0001", "g0003-i0004",
    }  # fmt: skip
    for individual in each.population:
        assert lineage[individual.id].genotype == individual.genotype
        assert lineage[individual.id].gene == individual.gene
        assert lineage[individual.id].parents == individual.parents
        assert lineage.line(individual.id)[-1].generation == 0


def test_the_logbook_says_how_it_went() -> None:
    each = manager()
    finished(each)
    assert [row["generation"] for row in each.logbook] == [0, 1, 2, 3]
    assert all(math.isfinite(row["best_score"]) and 0 < row["best_share"] <= 0.5 for row in each.logbook)
    last = each.logbook[-1]
    best = max(each.population, key=lambda i: i.score)
    assert last["best_score"] == best.score and last["fitness"]["max"] >= last["fitness"]["mean"]
    assert set(each.state()["blobs"]) == {
        ANCESTOR,
        *(i.gene for i in (*each.population, *each.hall.individuals)),
        *(p.gene for litter in each.litters.values() for p in litter),
    }
