"""Racing: who goes on, what it costs, that a cut-off race goes on where it was, and that nothing changes without it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from living import LocalPool, Stopping, Watched, evolved_with_stops, generation, in_process, journal, told
from pico import job
from pico import world as pico_world
from run_files import create
from tiny_run import tiny

from gtl import engine
from gtl.config import RacingSection, ScoreSection
from gtl.evolution.fitness import relative_cost
from gtl.evolution.racing import rounds, winners
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.life import World, evaluate
from gtl.population.outcomes import RememberingEvaluator
from gtl.population.pool_evaluator import PoolEvaluator
from gtl.population.progress import ProgressFile, read_progress
from gtl.population.racing import RacingEvaluator
from gtl.population.retry import Lost
from gtl.population.run import LEARNGENE
from gtl.population.store import RunStore

LIFE, LIVES, BATCH = 10, 6, 8
HEATS = (0.2, 0.5)  # of 10 steps: 2 and 5
RACE = {"heats": HEATS, "keep": 0.5}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return create(tmp_path / "store")


def racing(**race: Any) -> World:
    return pico_world(evolution={"racing": {**RACE, **race}}, life={"steps": LIFE})


def race(world: World, store: RunStore, jobs: list[Job], **watch: Any) -> tuple[dict[str, Outcome], Watched]:
    watched = Watched(in_process(world, store), **watch)
    return told(RacingEvaluator(watched, world).evaluate(jobs)), watched


def steps(outcomes: dict[str, Outcome]) -> dict[str, float | None]:
    return {name[-1]: outcome.evaluation.metrics.get("steps") for name, outcome in sorted(outcomes.items())}


# --- who goes on ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heats", "keep", "lives", "expected"),
    [
        ((), 0.25, 16, [(16, 100)]),
        ((0.1,), 0.25, 16, [(16, 10), (4, 100)]),
        ((0.1, 0.3), 0.25, 16, [(16, 10), (4, 30), (1, 100)]),
        ((0.1, 0.3), 0.5, 3, [(3, 10), (2, 30), (1, 100)]),
        ((0.1, 0.3), 0.5, 2, [(2, 10), (1, 100)]),
        ((0.1,), 0.9, 3, [(3, 100)]),
        ((0.0, 0.1), 0.25, 16, [(16, 0), (4, 10), (1, 100)]),
        ((0.1,), 0.01, 1, [(1, 100)]),
    ],
)
def test_rounds(heats: tuple[float, ...], keep: float, lives: int, expected: list[tuple[int, int]]) -> None:
    assert rounds(RacingSection(heats=heats, keep=keep), lives, 100) == expected


def test_the_best_go_on_as_selection_sees_them() -> None:
    layout = pico_world().layout
    small = Genotype({group: ChannelMask(width, [0]) for group, width in layout.groups.items()})
    jobs = [job(layout.full() if n in (1, 2) else small, individual=f"i{n}") for n in range(5)]
    found = {f"i{n}": Evaluation(Status.OK, fitness) for n, fitness in enumerate((0.5, 0.52, 0.52, 0.5, 0.0))}
    found["i4"] = Evaluation(Status.DIVERGED, reason="loss nan")

    def best(places: int, exponent: float) -> list[str]:
        section = ScoreSection(size_exponent=exponent)
        return [each.individual for each in winners(jobs, found, places, layout, section)]

    assert relative_cost(layout, small.counts) < 0.5
    assert best(1, 0.0) == ["i1"] and best(2, 0.0) == ["i1", "i2"], "equals as they were asked for"
    assert best(1, 0.1) == ["i0"] and best(3, 0.1) == ["i0", "i1", "i3"], "a small gene's size counts"
    assert best(5, 0.0) == ["i0", "i1", "i2", "i3"], "who failed is out, whatever room there is"


# --- what comes out ------------------------------------------------------------------------------------------------


def test_heats_choose_who_lives_in_full(store: RunStore) -> None:
    world = racing()
    jobs = generation(world, store, LIVES)
    outcomes, watched = race(world, store, jobs)
    assert [[each.steps for each in asked if each.lives] for asked in watched.rounds] == [[2] * 6, [5] * 3, [None] * 2]
    assert [sum(not each.lives for each in asked) for asked in watched.rounds] == [1, 0, 0]
    assert sorted(outcomes) == [each.individual for each in jobs]
    lived = Counter(outcome.evaluation.metrics.get("steps") for outcome in outcomes.values())
    assert lived == {2: 3, 5: 1, LIFE: 2, None: 1}
    for each in jobs:  # every outcome is what that life gives by itself
        outcome = outcomes[each.individual]
        lasted = outcome.evaluation.metrics.get("steps")
        alone = replace(each, steps=lasted) if lasted else each
        tensors, evaluation = evaluate(alone, [store.blobs.get(each.parents[0].gene)], world)
        assert tensors is not None and outcome.gene == store.blobs.put(tensors)
        assert outcome.evaluation.fitness == evaluation.fitness
        spent = {2: 2, 5: 2 + 5, LIFE: 2 + 5 + LIFE, None: 0}[lasted]
        assert outcome.evaluation.images == spent * BATCH, "all rounds are counted"
    in_heat = {each.individual: None for each in jobs[:LIVES]}
    for outcome in in_process(world, store).evaluate(watched.rounds[0]):
        in_heat[outcome.individual] = outcome.evaluation
    expected = winners(jobs[:LIVES], in_heat, 3, world.layout, world.config.evolution.score)  # type: ignore[arg-type]
    assert [each.individual for each in watched.rounds[1]] == [each.individual for each in expected]


def test_a_heat_of_no_steps_judges_newborns(store: RunStore) -> None:
    world = racing(heats=(0.0,), keep=0.2)
    jobs = generation(world, store, LIVES)
    outcomes, watched = race(world, store, jobs)
    assert [[each.steps for each in asked if each.lives] for asked in watched.rounds] == [[0] * 6, [None]]
    lived = [outcome.evaluation for outcome in outcomes.values() if "steps" in outcome.evaluation.metrics]
    assert sorted(each.images for each in lived) == [0] * 5 + [LIFE * BATCH], "being judged costs no training image"
    (winner,) = watched.rounds[1]
    best = max(lived, key=lambda each: each.fitness if not each.images else -1.0)
    born = {each.individual: each for each in in_process(world, store).evaluate(watched.rounds[0])}
    assert born[winner.individual].evaluation.fitness >= best.fitness


def test_the_order_of_arrival_never_shows(store: RunStore) -> None:
    world = racing()
    jobs = generation(world, store, LIVES)
    expected = race(world, store, jobs)[0]
    orders = set()
    for shuffle in range(4):
        found, watched = race(world, store, jobs, shuffle=shuffle)
        orders.add(tuple(each.individual for each in watched.done))
        assert found == expected
    assert len(orders) > 1
    local = LocalPool(world)
    assert told(RacingEvaluator(PoolEvaluator(local, store.blobs), world).evaluate(jobs)) == expected
    assert {call.kind for call in local.calls} == {"life of 2 steps", "life of 5 steps", "life", "criticism"}, (
        "what is given to a full life is not measured by heats"
    )


def test_who_fails_is_out(store: RunStore) -> None:
    world = racing()
    jobs = generation(world, store, LIVES, broken=range(4))
    found, watched = race(world, store, jobs)
    failed = [found[each.individual].evaluation for each in jobs[:4]]
    assert {(each.status, each.images) for each in failed} == {(Status.DIVERGED, 2 * BATCH)}
    assert [len(asked) for asked in watched.rounds] == [7, 2], "two are left, and a second heat would keep two"
    assert found[jobs[5].individual].evaluation.images == (2 + LIFE) * BATCH
    lost = {jobs[5].individual: Lost(Status.LOST, "cost 3 workers", 2.0)}
    evaluator = RacingEvaluator(PoolEvaluator(LocalPool(world, lost), store.blobs), world)
    outcomes = told(evaluator.evaluate(jobs))
    assert outcomes[jobs[5].individual].evaluation.status is Status.LOST
    assert steps(outcomes) == {"0": 2, "1": 2, "2": 2, "3": 2, "4": LIFE, "5": 2, "6": None}


def test_where_all_heats_fail_their_outcomes_are_told(store: RunStore) -> None:
    world = racing()
    jobs = generation(world, store, 3, broken=range(3))
    found, _ = race(world, store, jobs)
    assert [found[each.individual].evaluation.status for each in jobs] == [Status.DIVERGED] * 3 + [Status.OK]
    assert steps(found) == {"0": 2, "1": 2, "2": 2, "3": None}


def test_without_heats_nothing_changes(store: RunStore) -> None:
    world = racing(heats=())
    jobs = generation(world, store, LIVES)
    found, watched = race(world, store, jobs)
    assert watched.rounds == [jobs] and found == told(in_process(world, store).evaluate(jobs))
    assert "steps" not in json.loads(jobs[0].text), "jobs are the bytes that they were before there was racing"
    heat = replace(jobs[0], steps=3)
    assert Job.from_json(json.loads(heat.text)) == heat and Job.from_json(json.loads(jobs[0].text)) == jobs[0]
    assert heat.text != jobs[0].text
    survivors = [replace(each, lives=False) for each in jobs]
    assert race(racing(), store, survivors)[1].rounds == [survivors], "who does not live does not race"


# --- a race that is cut off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(13))
def test_a_race_goes_on_where_it_was(store: RunStore, stop: int) -> None:
    """Stopped after every number of evaluations: within each round and between two; nothing finished is done again."""
    world = racing()
    jobs = generation(world, store, LIVES)
    expected, whole = race(world, store, jobs)
    total = sum(map(len, whole.rounds))
    assert total == 7 + 3 + 2

    def remembering(watched: Watched) -> dict[str, Outcome]:
        return told(RacingEvaluator(RememberingEvaluator(watched, store), world).evaluate(jobs))

    first = Watched(in_process(world, store), stop_after=stop)
    if stop < total:
        with pytest.raises(KeyboardInterrupt):
            remembering(first)
    else:
        assert remembering(first) == expected
    second = Watched(in_process(world, store))
    assert remembering(second) == expected
    done = Counter(each.text for each in (*first.done, *second.done))
    assert set(done.values()) == {1} and len(done) == total, "finished evaluations repeated: 0"
    assert len(first.done) == stop if stop < total else not second.done


def tiny_race() -> Any:
    evolution = {"population": 6, "crossover": {"average_siblings": False}, "racing": {"heats": (0.34,), "keep": 0.4}}
    return tiny(evolution=evolution, life={"steps": 6}, compute={"threads": 1})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine.evolve(tiny_race(), tmp_path_factory.mktemp("race") / "run", workers=1, observer=Stopping()).run


def test_a_run_that_races_is_the_same_run_when_resumed(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lives = [f"g0002-i000{n}" for n in range(5)]
    evolved_with_stops(tiny_race(), run, lives)  # losers' outcomes come between the rounds, winners' within the last
    assert (run / LEARNGENE).read_bytes() == (undisturbed / LEARNGENE).read_bytes()
    assert journal(run) == journal(undisturbed)
    lived = Counter(row["metrics"].get("steps") for row in journal(run) if row["event"] == "evaluation")
    assert lived[2] == 2 * 3 and lived[6] == 2 * 2, "of five children two live in full"


def test_the_progress_file_counts_to_the_end(undisturbed: Path, store: RunStore) -> None:
    found = read_progress(undisturbed)
    assert found is not None and found["state"] == "finished"
    world = racing()
    jobs = generation(world, store, LIVES)
    progress = ProgressFile(store.path)
    progress.asked(jobs)
    seen = []
    for outcome in RacingEvaluator(in_process(world, store), world).evaluate(jobs):
        progress.evaluated(outcome)
        document = progress.document()
        seen.append((document["done"], document["pending"]))
    progress.stopped("end of test")
    assert seen == [(n, len(jobs) - n) for n in range(1, len(jobs) + 1)]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_race_on_workers_is_the_race_in_one_process(undisturbed: Path, tmp_path: Path) -> None:
    run = engine.evolve(tiny_race(), tmp_path / "run", workers=2).run
    assert (run / LEARNGENE).read_bytes() == (undisturbed / LEARNGENE).read_bytes()
    assert journal(run) == journal(undisturbed)
