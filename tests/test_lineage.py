"""Lineage: rows of one run are equal but for times, replay to the family tree, and in no other order."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from gtl.errors import RunError
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Individual, Status
from gtl.lineage import Lineage, birth_row, death_row, evaluation_row, read_rows

GENOTYPE = Genotype({"stage1.b": ChannelMask(8, [1, 5]), "stage1.a": ChannelMask(4, [0])})  # not in alphabetical order


def person(name: str, generation: int, *parents: str, fitness: float | None = None) -> Individual:
    evaluation = None if fitness is None else Evaluation(Status.OK, fitness, {"spread": 0.1}, 640, 1.5)
    return Individual(name, generation, GENOTYPE, parents, f"hash-of-{name}", f"litter-{name}", evaluation, 0.25)


def family() -> list[dict[str, Any]]:
    """a and b found; c is a's child, d is b's and c's, e is d's and a's; a is evaluated twice and dies."""
    members = {
        "a": person("a", 0, "ancestor", fitness=0.5),
        "b": person("b", 0, fitness=0.4),
        "c": person("c", 1, "a", fitness=0.6),
        "d": person("d", 2, "b", "c", fitness=0.7),
        "e": person("e", 3, "d", "a"),
    }
    again = person("a", 0, fitness=0.55)
    return [
        birth_row(members["a"]),
        birth_row(members["b"]),
        evaluation_row(members["a"], 0),
        evaluation_row(members["b"], 0),
        birth_row(members["c"]),
        evaluation_row(members["c"], 1),
        evaluation_row(again, 1),
        birth_row(members["d"]),
        evaluation_row(members["d"], 2),
        death_row("a", 2, "not selected"),
        birth_row(members["e"]),
    ]


def write(path: Path, rows: list[dict[str, Any]], end: str = "\n") -> Path:
    path.write_bytes("".join(json.dumps(row) + end for row in rows).encode())
    return path


def test_rows_replay_to_the_family_tree(tmp_path: Path) -> None:
    for lineage in (Lineage.from_rows(family()), Lineage.read(write(tmp_path / "lineage.jsonl", family()))):
        assert list(lineage) == ["a", "b", "c", "d", "e"] and len(lineage) == 5
        assert lineage.founders == ("a", "b")
        assert (lineage["a"].cut, lineage["b"].cut) == (True, False)
        assert lineage.children("a") == ("c", "e") and lineage.children("e") == ()
        a = lineage["a"]
        assert a.genotype == GENOTYPE and list(a.genotype) == list(GENOTYPE)
        assert [(g, e.fitness, e.seconds, e.images) for g, e in a.evaluations] == [
            (0, 0.5, 1.5, 640),
            (1, 0.55, 1.5, 640),
        ]
        assert (a.fitness, a.gene, a.litter, a.died) == (0.55, "hash-of-a", "litter-a", (2, "not selected"))
        assert lineage["e"].fitness is None and lineage["e"].died is None


def test_ancestors_are_nearest_first_with_the_fewest_hops() -> None:
    lineage = Lineage.from_rows(family())
    assert lineage.ancestors("e") == [("d", 1), ("a", 1), ("b", 2), ("c", 2)]
    assert lineage.ancestors("a") == []
    with pytest.raises(KeyError):
        lineage.ancestors("z")


def test_line_follows_first_parents() -> None:
    steps = Lineage.from_rows(family()).line("e")
    assert [(step.id, step.generation, step.fitness) for step in steps] == [
        ("e", 3, None),
        ("d", 2, 0.7),
        ("b", 0, 0.4),
    ]
    assert steps[0].counts == {"stage1.b": 2, "stage1.a": 1}


def test_only_time_may_differ_between_repetitions() -> None:
    fast = Individual("a", 0, GENOTYPE, evaluation=Evaluation(Status.OK, 0.5, seconds=1.0))
    slow = Individual("a", 0, GENOTYPE, evaluation=Evaluation(Status.OK, 0.5, seconds=9.0))
    rows = [evaluation_row(fast, 3), evaluation_row(slow, 3)]
    assert rows[0] != rows[1]
    for row in rows:
        del row["time"]
    assert rows[0] == rows[1]
    assert "seconds" not in json.dumps([birth_row(fast), death_row("a", 1, "x"), rows[0]])
    assert Lineage.from_rows([birth_row(fast), rows[0]])["a"].evaluations[0][1].seconds == 0


def test_failures_are_rows_without_infinity() -> None:
    failed = Individual("a", 0, GENOTYPE, evaluation=Evaluation(Status.DIVERGED, reason="loss is nan"), score=-math.inf)
    row = evaluation_row(failed, 0)
    assert row["score"] is None and json.dumps(row, allow_nan=False)
    life = Lineage.from_rows([birth_row(failed), row])["a"]
    assert life.fitness is None and life.evaluations[0][1].reason == "loss is nan"
    with pytest.raises(ValueError, match="no evaluation"):
        evaluation_row(person("a", 0), 0)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (evaluation_row(person("z", 0, fitness=0.1), 3), "evaluation of 'z', which was never born"),
        (death_row("z", 3, ""), "death of 'z', which was never born"),
        (evaluation_row(person("a", 0, fitness=0.1), 3), "'a', which died in generation 2"),
        (death_row("a", 3, ""), "'a', which died"),
        (birth_row(person("a", 3)), "second birth of 'a'"),
        (birth_row(person("ancestor", 3)), "second birth"),
        (birth_row(person("f", 3, "a", "z")), r"from \['z'\], never born"),
        ({"event": "marriage", "id": "b", "generation": 3}, "'marriage' is not one of birth, evaluation, death"),
        ({"event": "death", "id": "b"}, "no field 'generation'"),
        ({"event": "death", "id": "b", "generation": "3"}, "must be text"),
        ({"event": "death", "id": ["b"], "generation": 3}, "must be text"),
        ({**birth_row(person("f", 3)), "genotype": {"g": {"size": 2, "kept": [2]}}}, "channel 2 outside"),
        ({**birth_row(person("f", 3)), "genotype": {"g": {"size": 10**12, "kept": [2]}}}, "it has 1..65536"),
        ({**birth_row(person("f", 3)), "genotype": {"g": {"size": 2, "kept": [10**30]}}}, "row 12"),
        ({**birth_row(person("f", 3)), "genotype": {"g": {"size": math.inf, "kept": [0]}}}, "row 12"),
        ({**birth_row(person("f", 3)), "genotype": 5}, "row 12"),
        ({**birth_row(person("f", 3)), "parents": None}, "row 12"),
        ({**evaluation_row(person("b", 0, fitness=0.1), 3), "fitness": math.nan}, "not finite"),
        ({**evaluation_row(person("b", 0, fitness=0.1), 3), "fitness": 10**400}, "row 12"),
        ({**evaluation_row(person("b", 0, fitness=0.1), 3), "status": "great"}, "great"),
        ({**evaluation_row(person("b", 0, fitness=0.1), 3), "time": 5}, "row 12"),
    ],
)
def test_rows_that_cannot_follow_are_refused_by_number(row: dict[str, Any], says: str) -> None:
    with pytest.raises(RunError, match=says) as caught:
        Lineage.from_rows([*family(), row], source="runs/001/lineage.jsonl")
    assert str(caught.value).startswith("runs/001/lineage.jsonl: row 12 ")


def test_torn_tail_crlf_and_empty_files(tmp_path: Path) -> None:
    rows = family()
    path = write(tmp_path / "lineage.jsonl", rows)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_rows(path) == rows[:-1]
    path.write_bytes(whole + b"\0\0\0")
    assert read_rows(path) == rows
    assert len(Lineage.read(write(path, rows, end="\r\n"))) == 5
    path.write_bytes(b"")
    assert len(Lineage.read(path)) == 0


@pytest.mark.parametrize("damage", [b'{"event": "bir', b"[]", b"", b"\xff\xfe", b"[" * 100_000])
def test_damage_in_the_middle_is_refused_by_line(tmp_path: Path, damage: bytes) -> None:
    path = write(tmp_path / "lineage.jsonl", family())
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:4], damage, *lines[5:]]))
    with pytest.raises(RunError, match=rf"{path}: line 5 is damaged"):
        Lineage.read(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match="cannot read"):
            Lineage.read(path)
