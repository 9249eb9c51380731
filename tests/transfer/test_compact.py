"""Compact opponents: descendants of one size, alone, taught, or with the gene; and what a comparison says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import random_genotype, world

from gtl.comparison import gate
from gtl.errors import ConfigError, DataError
from gtl.fewshot import compare_starts
from gtl.learngene.artifact import Learngene
from gtl.learngene.founders import ancestor_images
from gtl.learngene.opponents import DEFAULTS, OPPONENTS, entrants
from gtl.learngene.setting import Entrant, Setting
from gtl.models import build
from gtl.report.table import claims, compared
from gtl.seeds import rng
from gtl.surgery import gather
from gtl.transfer.lessons import Distillation, HereditaryTransfer, Lesson
from gtl.transfer.opponents import COMPACT
from gtl.transfer.tuned_opponents import TUNED_OPPONENTS
from gtl.trials import Trials

TAUGHT = {"compact distillation": Distillation, "compact HKT": HereditaryTransfer}
TAUGHT["compact learngene + HKT"] = HereditaryTransfer


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("GTL_CACHE", str(folder))
        yield folder


def setting_of(known: bool = True, **sections: Any) -> Setting:
    place = world("vgg11", fewshot={"learning_rates": (0.03, 0.1)}, **sections)
    genotype = random_genotype(place.layout.groups, 1, 0.5)
    tensors = gather(build(place.host, 9).state_dict(), place.layout, genotype)
    total = ancestor_images(place.config, len(place.train.labels)) + 100
    provenance = {"images": {"total": total}, "generations": 2} if known else {}
    return Setting(Learngene("vgg11", genotype, tensors, {}, provenance), place, run=Trials())


@pytest.fixture(scope="module")
def setting() -> Setting:
    return setting_of()


@pytest.fixture(scope="module")
def found(setting: Setting) -> dict[str, Entrant]:
    return {entrant.name: entrant for entrant in entrants(setting, list(COMPACT))}


def test_all_are_the_thin_network(found: dict[str, Entrant], setting: Setting) -> None:
    compact = {name: entrant for name, entrant in found.items() if name != "scratch"}
    assert list(compact) == ["compact scratch", "compact learngene", *TAUGHT]
    counts = setting.learngene.genotype.counts
    for name, entrant in compact.items():
        network = entrant.start(5, 1)
        assert network.widths == counts and entrant.about["counts"] == list(counts.values()), name
        lesson = entrant.start.training
        assert lesson is None if name not in TAUGHT else type(lesson) is TAUGHT[name]
    digests = [(e.start.digest, e.start.training and e.start.training.digest) for e in compact.values()]
    assert len(set(digests)) == 5


def test_the_gene_is_in_those_that_say_so(found: dict[str, Entrant], setting: Setting) -> None:
    for name, entrant in found.items():
        if name == "scratch":
            continue
        state = entrant.start(5, 1).state_dict()
        own = all(torch.equal(state[key], tensor) for key, tensor in setting.learngene.tensors.items())
        assert own is ("learngene" in name) and entrant.share == float(own), name


def test_images_are_those_of_gene_and_parent(found: dict[str, Entrant], setting: Setting) -> None:
    images = {name: entrant.images for name, entrant in found.items()}
    cost = setting.images
    assert images["compact scratch"] == 0 and images["compact learngene"] == cost
    assert images["compact distillation"] == images["compact HKT"] == cost
    assert images["compact learngene + HKT"] == 2 * cost
    assert found["compact HKT"].to_json()["parent"] == {"images": cost, "fine_tuning_steps": 3}


def test_the_parent_is_the_reference_with_its_own_rate(found: dict[str, Entrant], setting: Setting) -> None:
    lesson = found["compact HKT"].start.training
    assert isinstance(lesson, Lesson)
    assert lesson.parent.start.digest == setting.whole.digest and lesson.parent.image_size == 16
    assert dict(lesson.parent.rates) == {3: setting.rates_of_whole["pretrained", 3]}


def test_they_are_asked_for_by_name() -> None:
    by_name = {*COMPACT, *TUNED_OPPONENTS, "inhernet", "inhernet-lived"}
    assert by_name == set(OPPONENTS) - set(DEFAULTS) and "learngene" in DEFAULTS


def test_untaught_ones_need_no_reference() -> None:
    unknown = setting_of(known=False)
    assert len(entrants(unknown, ["compact-scratch", "compact-learngene"])) == 3
    with pytest.raises(DataError, match="is not known"):
        entrants(unknown, ["compact-hkt"])


def test_options_are_the_configurations_and_refused_before_anything_is_trained(cache: Path) -> None:
    before = sorted(cache.iterdir())
    with pytest.raises(ConfigError, match="tap 'stage1': the child has no such stage"):
        entrants(setting_of(transfer={"taps": ("stage1",)}, seed=8), ["compact-hkt"])
    assert sorted(cache.iterdir()) == before
    (_, own) = entrants(setting_of(transfer={"mixer": "static"}), ["compact-hkt"])
    assert own.about["transfer"]["mixer"] == "static"


def test_they_are_compared(found: dict[str, Entrant], setting: Setting) -> None:
    """The whole way, on classes of their own: same newborns for those that inherit nothing, other descendants."""
    place = setting.world
    starts = {name: entrant.start for name, entrant in found.items()}
    rates = {(name, 3): 0.05 for name in starts}
    section = place.config.fewshot.model_copy(update={"steps": 6})
    results = compare_starts(starts, place.val, section, rates, 1, place.compute)
    curves = {result.start: result.curve for result in results}
    assert curves["compact scratch"][0] == curves["compact HKT"][0] == curves["compact distillation"][0]
    assert len({curves[name] for name in curves}) >= 5
    lines = claims([result.to_json() for result in results])
    assert len(lines) == 5 + 4 and sum(line.startswith("compact learngene: ") for line in lines) == 5


def row(start: str, draw: Any) -> dict[str, Any]:
    return {"start": start, "shots": 3, "accuracies": draw.random(4).tolist(), "gain": None, "by_class": None}


def test_the_compact_learngene_is_set_against_its_likes() -> None:
    draw = rng(1)
    rows = [row(name, draw) for name in ("scratch", "one-shot", "learngene", "compact scratch", "compact learngene")]
    pairs = {(own["start"], comparison.other) for own, comparison in compared(rows)}
    assert pairs == {
        ("learngene", "one-shot"),
        ("learngene", "compact scratch"),
        ("learngene", "compact learngene"),
        ("compact learngene", "compact scratch"),
    }


def test_gate_r_is_about_descendants_of_one_size() -> None:
    accuracies = {"scratch": (0.1, 0.12), "one-shot": (0.4, 0.41), "learngene": (0.5, 0.52)}
    assert gate(accuracies) == gate({**accuracies, "compact learngene + HKT": (0.9, 0.91)})
