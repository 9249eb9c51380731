"""Packs in a run: cut alike whoever cuts, equal to lives one by one up to rounding, whole or not at all when resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from living import LocalPool, Stopping, Watched, evolved_with_stops, generation, in_process, journal, told
from pico import ARCHS, job
from pico import world as pico_world
from run_files import create
from tiny_run import tiny

from gtl import engine, life
from gtl.config import ClusterSection
from gtl.data.images import ImageSet
from gtl.errors import ConfigError
from gtl.genotype import Genotype
from gtl.individual import Job, Outcome, Status
from gtl.life import World
from gtl.population.outcomes import RememberingEvaluator
from gtl.population.packs import packs
from gtl.population.pool_evaluator import PoolEvaluator
from gtl.population.racing import RacingEvaluator
from gtl.population.retry import Deadlines, Lost
from gtl.population.run import LEARNGENE
from gtl.population.store import RunStore

PACKED = ("grouped", "vmap")
SCALED = {"gene_update": 0.5, "zero_block": "masked"}  # members' update scales differ, as their genes do


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return create(tmp_path / "store")


def packing(pack: int, how: str = "grouped", arch: str = "vgg11", **sections: Any) -> World:
    return pico_world(arch, compute={"pack": pack, "packing": how}, **{"life": {"steps": 5}, **sections})


def lived(world: World, store: RunStore, jobs: list[Job]) -> dict[str, Outcome]:
    return told(in_process(world, store).evaluate(jobs))


def same_lives(found: dict[str, Outcome], expected: dict[str, Outcome]) -> bool:
    """Genes and fitness; packed lives have a further metric."""
    return all(
        (found[name].gene, found[name].evaluation.fitness) == (outcome.gene, outcome.evaluation.fitness)
        for name, outcome in expected.items()
    ) and len(found) == len(expected)


# --- who is with whom ----------------------------------------------------------------------------------------------


def cut(lives: Sequence[bool], size: int) -> list[tuple[int, ...]]:
    genotype = Genotype.full({"conv1": 4})
    jobs = [job(genotype, individual=str(n), lives=alive) for n, alive in enumerate(lives)]
    return [tuple(int(each.individual) for each in pack) for pack in packs(jobs, size)]


def test_lives_are_cut_in_the_order_asked() -> None:
    assert cut([True] * 5, 2) == [(0, 1), (2, 3), (4,)]
    assert cut([True, False, True, True, False], 2) == [(0, 2), (1,), (3,), (4,)]
    assert cut([False] * 3, 2) == [(0,), (1,), (2,)] == cut([True] * 3, 1)
    assert cut([True] * 3, 99) == [(0, 1, 2)] and cut([], 4) == []


@given(st.lists(st.booleans(), max_size=20), st.integers(1, 5), st.data())
def test_without_some_packs_the_others_stay_as_they_are(lives: list[bool], size: int, data: st.DataObject) -> None:
    genotype = Genotype.full({"conv1": 4})
    whole = packs([job(genotype, individual=str(n), lives=alive) for n, alive in enumerate(lives)], size)
    left = [pack for pack in whole if data.draw(st.booleans())]
    assert packs([each for pack in left for each in pack], size) == left


# --- against lives one by one --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("how", PACKED)
@pytest.mark.parametrize("options", [{}, SCALED], ids=["plain", "scaled"])
def test_packed_lives_are_lives_up_to_rounding(store: RunStore, arch: str, how: str, options: dict[str, Any]) -> None:
    sections = {"life": {"steps": 5, **options}}
    jobs = generation(packing(1, arch=arch), store, 5)
    jobs[1] = replace(jobs[1], parents=())  # a fresh random host among heirs
    alone = lived(packing(1, arch=arch, **sections), store, jobs)
    found = lived(packing(3, how, arch, **sections), store, jobs)
    assert [found[each.individual].evaluation.metrics.get("pack") for each in jobs] == [3, 3, 3, 2, 2, None]
    for each in jobs:
        one, other = found[each.individual], alone[each.individual]
        assert one.evaluation.images == other.evaluation.images and one.evaluation.ok
        assert one.evaluation.fitness == pytest.approx(other.evaluation.fitness, abs=0.13), "two images of 16"
        for name, tensor in store.blobs.get(one.gene).items():
            torch.testing.assert_close(tensor, store.blobs.get(other.gene)[name], rtol=1e-3, atol=1e-3, msg=name)
    kernel = packing(1, arch=arch).layout.convolutions[0]
    for each in (jobs[0], *jobs[2:5]):  # the tolerance is far below what a life changes
        after, before = store.blobs.get(found[each.individual].gene), store.blobs.get(each.parents[0].gene)
        assert float((after[kernel] - before[kernel]).abs().max()) > 5e-3


def test_a_pack_that_loops_gives_the_same_bits(store: RunStore) -> None:
    jobs = generation(packing(1), store, 5)
    alone = lived(packing(1), store, jobs)
    assert same_lives(lived(packing(2, "loop"), store, jobs), alone)
    assert not same_lives(lived(packing(2), store, jobs), alone), "otherwise rounding would not be tested here"


@pytest.mark.parametrize("how", PACKED)
def test_who_diverges_leaves_the_others_alone(store: RunStore, how: str) -> None:
    world = packing(3, how)
    healthy = lived(world, store, generation(world, store, 3))
    found = lived(world, store, generation(world, store, 3, broken=[1]))
    names = sorted(healthy)
    broken = found.pop(names[1])
    del healthy[names[1]]
    assert broken.evaluation.status is Status.DIVERGED and "lower life.training" in broken.evaluation.reason
    assert broken.evaluation.images == 5 * 8 and found == healthy


# --- what does not fit ---------------------------------------------------------------------------------------------


def test_lives_with_other_batches_live_by_themselves(store: RunStore) -> None:
    """A class with few images gives its life smaller batches, which cannot be packed."""
    world = packing(2, life={"steps": 5, "n_way": 2, "training": {"batch_size": 12}})
    rows = torch.cat([torch.arange(3), torch.arange(8, len(world.train.labels))])  # eight images a class, but three
    names, config = world.train.class_names, world.config
    few = ImageSet(world.train.images[rows], world.train.labels[rows], names, "train", "gratings", False)
    world = replace(world, train=few)
    jobs = generation(world, store, 6)
    sizes = [len(world.environment(life._classes(each, world)).rows) for each in jobs[:6]]
    assert set(sizes) == {11, 16}
    found = lived(world, store, jobs)
    single = config.model_copy(update={"compute": config.compute.model_copy(update={"pack": 1})})
    alone = lived(replace(world, config=single), store, jobs)
    uneven = [n for n in (0, 2, 4) if sizes[n] != sizes[n + 1]]
    assert uneven
    for n in uneven:
        for each in jobs[n : n + 2]:
            outcome = found[each.individual]
            assert outcome.gene == alone[each.individual].gene and outcome.evaluation.metrics["pack"] == 1
            assert outcome.evaluation.reason.startswith("its pack of 2 failed (ValueError: the members' batches have")


def starve(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From now on a pack of several fails."""
    train_pack = life.train_pack

    def failing(networks: Any, *args: Any, **options: Any) -> Any:
        if len(networks) > 1:
            raise error
        return train_pack(networks, *args, **options)

    monkeypatch.setattr(life, "train_pack", failing)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError("no room"), RuntimeError("no room")])
def test_a_pack_that_fails_lives_one_by_one(store: RunStore, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    world = packing(3)
    jobs = generation(world, store, 3)
    alone = lived(packing(1), store, jobs)
    starve(monkeypatch, error)
    for found in (lived(world, store, jobs), told(PoolEvaluator(LocalPool(world), store.blobs, 3).evaluate(jobs))):
        assert same_lives(found, alone)
        for each in jobs[:3]:
            evaluation = found[each.individual].evaluation
            assert evaluation.ok and evaluation.metrics["pack"] == 1
            assert evaluation.reason == (
                f"its pack of 3 failed ({type(error).__name__}: no room), so it lived by itself"
            )


def test_a_wrong_configuration_stops_the_run(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    starve(monkeypatch, ConfigError("no such GPU"))
    with pytest.raises(ConfigError):
        lived(packing(2), store, generation(packing(2), store, 2))


# --- on workers ----------------------------------------------------------------------------------------------------


def test_a_pack_is_one_call(store: RunStore) -> None:
    world = packing(2)
    jobs = generation(world, store, 5)
    jobs[0] = replace(jobs[0], parents=())  # parents are dealt out by number
    jobs[2] = replace(jobs[2], parents=(*jobs[2].parents, *jobs[3].parents))
    expected = lived(world, store, jobs)
    local = LocalPool(world)
    assert told(PoolEvaluator(local, store.blobs, 2).evaluate(jobs)) == expected
    kinds = {call.key[-1]: (call.kind, call.individuals) for call in local.calls}
    pair = ("pack of 2, each a life", 2)
    assert kinds == {"0": pair, "2": pair, "4": ("life", 1), "5": ("criticism", 1)}
    lost = {jobs[2].individual: Lost(Status.LOST, "cost 3 workers", 4.0)}
    found = list(PoolEvaluator(LocalPool(world, lost), store.blobs, 2).evaluate(jobs))
    gone = {each.individual: each.evaluation for each in found if not each.evaluation.ok}
    assert sorted(gone) == [jobs[2].individual, jobs[3].individual] and len(found) == len(jobs)
    assert {(each.status, each.reason, each.seconds) for each in gone.values()} == {
        (Status.LOST, "cost 3 workers", 2.0)
    }


def test_a_pack_is_given_the_time_of_its_members() -> None:
    deadlines = Deadlines(ClusterSection(deadline=10.0, deadline_factor=3.0, first_deadline=100.0))
    assert deadlines.seconds("pack", 4) == 400.0
    deadlines.finished("pack", 1.0)
    assert deadlines.seconds("pack", 4) == 40.0
    deadlines.finished("pack", 50.0)
    assert deadlines.seconds("pack", 4) == 150.0, "the median is the whole pack's already"


# --- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("race", [False, True])
def test_a_pack_is_finished_as_a_whole(store: RunStore, race: bool) -> None:
    """Stopped after every number of outcomes, in a race too: the same bytes, and no finished pack is lived again."""
    racing = {"racing": {"heats": (0.4,), "keep": 0.7}}
    world = packing(2, evolution=racing) if race else packing(2)
    jobs = generation(world, store, 5)
    whole = Watched(in_process(world, store))
    expected = told(RacingEvaluator(whole, world).evaluate(jobs))
    total = sum(map(len, whole.rounds))
    assert total == (6 + 4 if race else 6)
    for stop in range(total):
        fresh = create(store.path.parent / f"run-{stop}")
        jobs = generation(world, fresh, 5)

        def remembering(watched: Watched, run: RunStore = fresh, jobs: list[Job] = jobs) -> dict[str, Outcome]:
            return told(RacingEvaluator(RememberingEvaluator(watched, run, 2), world).evaluate(jobs))

        first = Watched(in_process(world, fresh), stop_after=stop)
        with pytest.raises(KeyboardInterrupt):
            remembering(first)
        second = Watched(in_process(world, fresh))
        assert remembering(second) == expected
        finished = {each.text for asked in whole.rounds for pack in packs(asked, 2) for each in pack
                    if all(any(one.text == done.text for done in first.done) for one in pack)}  # fmt: skip
        asked_again = {each.text for asked in second.rounds for each in asked}
        assert not finished & asked_again, "finished packs lived again: 0"
        assert len(finished) >= stop - 1 and len(finished) + len(asked_again) == total


def tiny_packs(pack: int = 2, **evolution: Any) -> Any:
    sections = {"population": 6, "crossover": {"average_siblings": False}, **evolution}
    return tiny(evolution=sections, compute={"threads": 1, "pack": pack})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine.evolve(tiny_packs(), tmp_path_factory.mktemp("packs") / "run", workers=1, observer=Stopping()).run


def packed_with(run: Path) -> list[float | None]:
    return [
        row["metrics"].get("pack") for row in journal(run) if row["event"] == "evaluation" and row["generation"] == 2
    ]


def test_a_packed_run_is_the_same_run_when_resumed(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    evolved_with_stops(tiny_packs(), run, ("g0002-i0000", "g0002-i0001", "g0002-i0002", "g0003-i0003"))
    assert (run / LEARNGENE).read_bytes() == (undisturbed / LEARNGENE).read_bytes()
    assert journal(run) == journal(undisturbed)
    assert sorted(map(str, packed_with(run))) == ["2", "2", "2", "2", "None", "None"], "five lives, one survivor"


def test_a_pack_may_be_larger_than_the_population(tmp_path: Path) -> None:
    result = engine.evolve(tiny_packs(pack=50, generations=1), tmp_path / "run", workers=1)
    assert sorted(map(str, packed_with(result.run))) == ["5"] * 5 + ["None"]


def test_a_run_says_when_its_packs_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starve(monkeypatch, torch.OutOfMemoryError("no room"))
    said: list[str] = []

    class Hearing(Stopping):
        def message(self, text: str) -> None:
            said.append(text)

    engine.evolve(tiny_packs(generations=1), tmp_path / "run", workers=1, observer=Hearing())
    warnings = [text for text in said if text.startswith("warning: g0002-i0000: its pack of 2 failed")]
    assert len(warnings) == 1 and "OutOfMemoryError: no room" in warnings[0]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240)
def test_packs_on_workers_are_those_of_one_process(undisturbed: Path, tmp_path: Path) -> None:
    run = engine.evolve(tiny_packs(), tmp_path / "run", workers=2).run
    assert (run / LEARNGENE).read_bytes() == (undisturbed / LEARNGENE).read_bytes()
    assert journal(run) == journal(undisturbed)
