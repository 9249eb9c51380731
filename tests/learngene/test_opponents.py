"""Opponents of a learngene: each is what its name says, and costs the training images that it states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import config, random_genotype, world

from gtl.config_file import changed_config
from gtl.errors import DataError
from gtl.learngene import opponents
from gtl.learngene.artifact import Learngene
from gtl.learngene.founders import ancestor_images
from gtl.learngene.opponents import DEFAULTS, entrants
from gtl.learngene.setting import Entrant, Setting
from gtl.life import World
from gtl.models import build
from gtl.surgery import gather

LIFE_IMAGES = 3 * 8  # of pico's lives
SAID: list[str] = []


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("GTL_CACHE", str(folder))
        yield folder


def setting_of(arch: str, **provenance: Any) -> Setting:
    place = world(arch)
    genotype = random_genotype(place.layout.groups, 1, 0.5)
    tensors = gather(build(place.host, 9).state_dict(), place.layout, genotype)
    ancestor = ancestor_images(place.config, len(place.train.labels))
    images = {"ancestor": ancestor, "lives": 100, "total": ancestor + 100}
    gene = Learngene(arch, genotype, tensors, {}, {"images": images, "generations": 2, **provenance})
    return Setting(gene, place, SAID.append)


@pytest.fixture(scope="module", params=["vgg11", "resnet12"])
def setting(request: pytest.FixtureRequest, cache: Path) -> Setting:
    return setting_of(request.param)


@pytest.fixture(scope="module")
def found(setting: Setting) -> dict[str, Entrant]:
    return {entrant.name: entrant for entrant in entrants(setting, list(DEFAULTS))}


def state(entrant: Entrant, seed: int = 1) -> dict[str, torch.Tensor]:
    return entrant.start(5, seed).state_dict()


def test_all_of_them_bear_descendants(found: dict[str, Entrant], setting: Setting) -> None:
    for entrant in found.values():
        network = entrant.start(5, 1)
        assert network(torch.randn(2, 3, 16, 16)).shape == (2, 5), entrant.name
        assert 0.0 <= entrant.share <= 1.0
        assert all(torch.isfinite(tensor).all() for tensor in entrant.start.tensors.values()), entrant.name
    cuts = ("one-shot", "weight selection", "random mask", "Heur-LG")  # some choose the same of so few
    digests = [entrant.start.digest for name, entrant in found.items() if not name.startswith(cuts)]
    assert len(set(digests)) == len(digests) > 8


def test_none_costs_more_than_the_learngene(found: dict[str, Entrant], setting: Setting) -> None:
    for entrant in found.values():
        if entrant.name != "knowledge evolution, equal depth":
            assert entrant.images <= setting.images, entrant.name
    assert found["knowledge evolution, equal images"].images > setting.images - LIFE_IMAGES
    ancestor = ancestor_images(setting.world.config, len(setting.world.train.labels))
    assert found["knowledge evolution, equal depth"].images == ancestor + 2 * LIFE_IMAGES
    assert found["scratch"].images == found["trained mask, random weights"].images == 0


def test_sizes_are_the_learngenes(found: dict[str, Entrant], setting: Setting) -> None:
    own = found["learngene"]
    for name in ("trained mask, random weights", "random mask, trained weights", "thin network",
                 "knowledge evolution, equal depth", "knowledge evolution, equal images"):  # fmt: skip
        assert found[name].share == own.share and found[name].about["counts"] == own.about["counts"], name
    one_shots = [entrant for name, entrant in found.items() if name.startswith("one-shot ")]
    assert one_shots and all(entrant.share <= own.share + 1e-9 for entrant in one_shots)
    assert found["scratch"].share == 0.0 and found["pretrained"].share == found["linear probe"].share == 1.0


def test_the_best_one_shot_is_the_fittest(found: dict[str, Entrant]) -> None:
    listed = [entrant for name, entrant in found.items() if name.startswith("one-shot ")]
    best = max(listed, key=lambda entrant: entrant.about["fitness"])
    assert found["one-shot"].start.digest == best.start.digest
    assert {(e.about["method"], e.about["allocation"]) for e in listed} >= {
        (method, kind) for method in ("l1", "bn", "random") for kind in ("uniform", "early", "level", "gene")
    }


def test_masks_and_weights_are_told_apart(found: dict[str, Entrant], setting: Setting) -> None:
    own = setting.learngene.genotype
    assert found["trained mask, random weights"].start.genotype == own
    assert found["random mask, trained weights"].start.genotype != own
    weights = setting.reference[setting.world.layout.convolutions[0]]
    mask = found["random mask, trained weights"].start
    first = setting.world.layout.convolutions[0]
    rows = next(iter(mask.genotype.values())).kept if mask.genotype is not None else ()
    assert torch.equal(mask.tensors[first], weights[torch.as_tensor(list(rows))])


def test_the_thin_network_learns_as_the_genes_do(cache: Path) -> None:
    """By the recipe of lives where genes live as circuits, so that a better recipe is no merit of the evolution's."""
    starts = {}
    for host, rate in (("newborn", 0.05), ("newborn", 0.2), ("circuit", 0.05), ("circuit", 0.2)):
        place = world("vgg11", life={"host": host, "training": {"learning_rate": rate}})
        (entrant,) = opponents.thin(replace(setting_of("vgg11"), world=place))
        starts[host, rate] = entrant.start.digest
        assert entrant.about["recipe"] == ("life.training" if host == "circuit" else "founders.training")
    assert starts["newborn", 0.05] == starts["newborn", 0.2] == starts["circuit", 0.05] != starts["circuit", 0.2]


def test_a_reference_by_sgd_is_what_an_sgd_run_would_have(cache: Path) -> None:
    """Of a run with Muon it is `pretrained` of the same run with SGD; there it is left out, as nothing new."""
    recipe = {"momentum": 0.95, "weight_decay": 0.01}
    by_muon = world("vgg11", founders={"training": {**recipe, "optimiser": "muon"}})
    by_sgd = world("vgg11", founders={"training": {**recipe, "optimiser": "sgd", "momentum": 0.9}})
    setting = setting_of("vgg11")
    (muon,) = opponents.pretrained(replace(setting, world=by_muon))
    (other,) = opponents.pretrained_by_sgd(replace(setting, world=by_muon))
    (sgd,) = opponents.pretrained(replace(setting, world=by_sgd))
    assert other.start.digest == sgd.start.digest != muon.start.digest
    assert (other.share, other.images) == (muon.share, muon.images)
    assert opponents.pretrained_by_sgd(replace(setting, world=by_sgd)) == []


def test_last_layers_are_whole_and_last(found: dict[str, Entrant], setting: Setting) -> None:
    entrant, layout = found["last layers"], setting.world.layout
    layers = [f"{name}.weight" for name in entrant.about["layers"]]
    assert layers == list(reversed(layout.convolutions))[: len(layers)] and layers
    born = state(entrant)
    for name, tensor in entrant.start.tensors.items():
        assert torch.equal(born[name], setting.reference[name]) and torch.equal(born[name], tensor)
    inherited = {name for name in entrant.start.tensors if name.endswith(".running_var")}
    assert len(inherited) == len(layers), "with their norms"
    assert not torch.equal(born[layout.convolutions[0]], setting.reference[layout.convolutions[0]])


def test_lives_of_knowledge_evolution_build_on_each_other(setting: Setting, found: dict[str, Entrant]) -> None:
    steps = [opponents._lineage(setting, "knowledge evolution", lives) for lives in range(3)]
    first = setting.world.layout.convolutions[0]
    assert all(not torch.equal(before[first], after[first]) for before, after in pairwise(steps))
    depth = found["knowledge evolution, equal depth"]
    assert all(torch.equal(steps[2][name], tensor) for name, tensor in depth.start.tensors.items())
    assert depth.about["lives"] == 2


def test_a_line_may_be_as_long_as_it_likes(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of lives at the paper's scale; the ancestor is looked up once. Lives themselves are left out here."""
    lives, ancestors, keys = 1200, [], []
    real = opponents._ancestor
    monkeypatch.setattr(opponents, "_ancestor", lambda *given: ancestors.append(1) or real(*given))
    monkeypatch.setattr(opponents, "find_tensors", lambda world, key: None)
    monkeypatch.setattr(opponents, "keep_tensors", lambda world, key, tensors: keys.append(key) or tensors)
    monkeypatch.setattr(opponents, "evaluate", lambda job, genes, world: (genes[0], None))
    opponents._lineage(setting, "a line", lives)
    assert [key["lives"] for key in keys] == list(range(1, lives + 1)) and len(ancestors) == 1
    opponents._lineage(setting, "a line", 2)
    monkeypatch.setattr(opponents, "find_tensors", lambda world, key: {} if key["lives"] == 2 else None)
    assert opponents._lineage(setting, "a line", 2) == {} and len(ancestors) == 2, "what is kept needs no ancestor"
    opponents._lineage(setting, "a line", 3)
    assert keys[-1]["lives"] == 3 and len(keys) == lives + 3, "only the life that was missing"
    monkeypatch.setattr(opponents, "find_tensors", lambda world, key: None)
    noisy = changed_config(setting.world.config, evolution={"mutation": {"weight_noise": 0.5}})
    opponents._lineage(replace(setting, world=replace(setting.world, config=noisy)), "a line", 1)
    assert keys[0] != keys[-1] and keys[0]["lives"] == keys[-1]["lives"], "noise is part of every life"


def test_what_was_trained_is_kept(setting: Setting, found: dict[str, Entrant]) -> None:
    before = len(SAID)
    again = {e.name: e for e in entrants(Setting(setting.learngene, setting.world, SAID.append), list(DEFAULTS))}
    assert len(SAID) == before, "nothing was trained again"
    assert {n: e.start.digest for n, e in again.items()} == {n: e.start.digest for n, e in found.items()}


def test_scratch_is_always_there_and_first(setting: Setting) -> None:
    assert [entrant.name for entrant in entrants(setting, ["learngene"])] == ["scratch", "learngene"]


def test_unknown_opponents_are_named(setting: Setting) -> None:
    with pytest.raises(DataError, match=r"unknown starts \['thick'\]; known are scratch, pretrained"):
        entrants(setting, ["thick", "thin"])


def test_without_a_known_cost_there_are_no_references(cache: Path) -> None:
    place = world("vgg11")
    genotype = place.layout.full()
    gene = Learngene("vgg11", genotype, gather(build(place.host, 9).state_dict(), place.layout, genotype))
    assert len(entrants(Setting(gene, place), ["learngene"])) == 2
    for name in ("pretrained", "one-shot", "thin", "knowledge-evolution"):
        with pytest.raises(DataError, match="is not known"):
            entrants(Setting(gene, place), [name])
    checkpoint = config(founders={"checkpoint": "own.safetensors"})
    other = World(checkpoint, place.host, place.train, place.val, place.compute)
    with pytest.raises(DataError, match="compare --starts scratch,learngene"):
        entrants(Setting(gene, other), ["pretrained"])
