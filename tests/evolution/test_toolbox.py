"""The DEAP toolbox and records: the roles are there, failures do not count, nothing needs torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from pico import GROUPS, config, individual, random_genotype

from gtl.evolution.toolbox import HALL_SIZE, HallOfFame, generation_statistics, make_toolbox
from gtl.models import gene_layout

LAYOUT = gene_layout("vgg11", dict.fromkeys(GROUPS["vgg11"], 6))


def test_variation_needs_no_torch() -> None:
    code = "import sys, gtl.evolution.toolbox; assert not {'torch', 'ray', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_roles_follow_the_configuration() -> None:
    settled = config(
        evolution={
            "tournament": {"size": 1, "elite": 2},
            "mutation": {"add": 1.0, "drop": 0.0, "swap": 0.0, "move": 0.0},
        }
    )
    ranking = {group: np.arange(6.0) for group in LAYOUT.groups}
    toolbox = make_toolbox(settled, LAYOUT, ranking)
    population = [individual(f"i{n}", n / 10) for n in range(6)]
    assert [i.id for i in toolbox.elite(population)] == ["i5", "i4"]
    assert len({i.id for i in toolbox.select(population, np.random.default_rng(0), k=60)}) == 6, "size 1: no pressure"
    parent, other = (random_genotype(LAYOUT.groups, n, share=0.3) for n in range(2))
    (child,) = toolbox.mutate(parent, np.random.default_rng(1))
    assert LAYOUT.circuit_share(child.counts) <= settled.gene.budget and child != parent
    gained = []
    for number in range(50):
        (found,) = toolbox.search_mutate(parent, np.random.default_rng(number))
        gained += [c for g in LAYOUT.groups for c in np.flatnonzero(found[g].bits & ~parent[g].bits)]
    assert np.mean(gained) > np.mean([c for g in LAYOUT.groups for c in parent[g].dropped]) + 0.3, "the ranking is used"
    assert len(toolbox.mate(parent, other, np.random.default_rng(0))) == 2
    assert "evaluate" not in vars(toolbox), "the engine registers its evaluator"


def test_statistics_are_of_those_that_did_not_fail() -> None:
    population = [
        individual("a", 0.2, genotype=random_genotype(LAYOUT.groups, 1)),
        individual("b", 0.4, genotype=random_genotype(LAYOUT.groups, 2)),
        individual("bad", None, genotype=LAYOUT.full()),
    ]
    record = generation_statistics(population, LAYOUT)
    assert record["fitness"] == {"mean": pytest.approx(0.3), "min": 0.2, "max": 0.4}
    assert record["share"]["max"] < 1.0, "the failed one's full gene does not count"
    assert (record["individuals"], record["failed"]) == (3, 1)
    json.dumps(record, allow_nan=False)
    assert generation_statistics([individual("bad", None)], LAYOUT) == {"individuals": 1, "failed": 1}


def test_the_hall_keeps_the_best_once_each() -> None:
    hall = HallOfFame()
    hall.update([individual(f"i{n}", n / 20) for n in range(HALL_SIZE + 3)])
    hall.update([individual("again", 0.9, gene="i7"), individual("bad", None), individual("low", 0.01)])
    names = [i.id for i in hall.individuals]
    assert names == [f"i{n}" for n in range(HALL_SIZE + 2, 2, -1)], "best first; a known gene comes in only once"
    hall.update([individual("best", 0.99)])
    assert [i.id for i in hall.individuals] == ["best", *names[:-1]]
    assert HallOfFame().individuals == []


def test_what_the_hall_holds_does_not_change_with_the_population() -> None:
    member = individual("a", 0.5)
    hall = HallOfFame([member])
    member.score, member.credit = 0.1, 0.3
    (kept,) = hall.individuals
    assert (kept.score, kept.credit) == (0.5, 0.0) and kept.genotype is member.genotype


def test_a_hall_goes_on_as_it_was_even_with_ties() -> None:
    hall = HallOfFame()
    hall.update([individual(name, score) for name, score in (("a", 0.5), ("b", 0.5), ("c", 0.7), ("d", 0.5))])
    names = [i.id for i in hall.individuals]
    restored = HallOfFame(hall.individuals)
    assert [i.id for i in restored.individuals] == names
    for each in (hall, restored):
        each.update([individual("e", 0.5), individual("f", 0.7)])
        each.update([individual("g", 0.6)])
    assert [i.id for i in restored.individuals] == [i.id for i in hall.individuals]
