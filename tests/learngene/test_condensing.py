"""Condensing without evolution: every choice keeps the budget and gives a whole gene; the search is as good as any rule."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from pico import ARCHS, equal, noise, world
from pydantic import BaseModel

import gtl
from gtl.config_file import changed_config
from gtl.data.augment import to_input
from gtl.errors import ConfigError, DataError
from gtl.evolution.founding import ALLOCATIONS, allocation
from gtl.learngene import allocation_search
from gtl.learngene.allocation_search import search_allocation
from gtl.learngene.artifact import Learngene
from gtl.learngene.condense import KINDS, condense
from gtl.learngene.evidence import Bench, config_of
from gtl.learngene.oneshot import BY_IMAGES, METHODS, Jury, one_shot, picker
from gtl.learngene.opponents import Setting, entrants
from gtl.life import World
from gtl.models import build
from gtl.phenotype import thin_network
from gtl.report.card import card_markdown
from gtl.surgery import gather
from gtl.training import TrainingSection, train

BUDGET = 0.3


@cache
def place(arch: str = "vgg11") -> tuple[World, dict[str, torch.Tensor]]:
    """A world, and the state dict of a host that has learned its train classes a little."""
    host = world(arch, width=8, each=14, critic={"fit_images": 6, "score_images": 8})
    network = build(replace(host.host, num_classes=4), 1)
    train(network, host.train, TrainingSection(batch_size=16), steps=20, seed=2, compute=host.compute)
    return host, dict(network.to("cpu").state_dict())


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of a few genes."""
    real = allocation_search.search_allocation
    monkeypatch.setattr(
        "gtl.learngene.condense.search_allocation",
        lambda *given, **named: real(*given, **named, starts=4, generations=2, children=3),
    )


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("arch", "method", "kind"),
    [
        *(("vgg11", method, "uniform") for method in METHODS),
        *(("resnet12", method, "uniform") for method in BY_IMAGES),
        *((arch, "taylor", "searched") for arch in ARCHS),
        ("resnet12", "l1", "early"),
        ("resnet12", "bn", "level"),
    ],
)
def test_every_choice_keeps_the_budget_and_gives_a_whole_circuit(arch: str, method: str, kind: str) -> None:
    host, state = place(arch)
    gene = condense(host, state, method=method, allocation=kind, budget=BUDGET)
    layout, counts = host.layout, gene.genotype.counts
    assert 0.7 * BUDGET < layout.circuit_share(counts) <= BUDGET
    assert gene.shares["circuit"] == layout.circuit_share(counts)
    if kind != "searched":
        assert counts == allocation(layout, kind, BUDGET)
    again = Learngene.from_bytes(gene.to_bytes())
    assert equal(again.tensors, gene.tensors) and again.genotype == gene.genotype
    descendant = build(replace(host.host, num_classes=6), 9)
    report = gtl.inherit(descendant, again)
    assert report.inherited == sum(
        tensor.numel() for name, tensor in gene.tensors.items() if not name.endswith(("mean", "var"))
    )
    thin = thin_network(arch, gene.genotype, gene.tensors)
    inputs = noise(2, 16)
    with torch.no_grad():
        alone, inside = thin.activations(inputs), descendant.eval().activations(inputs)
    for group, mask in gene.genotype.items():
        kept = inside[group][:, torch.from_numpy(mask.kept)]
        assert torch.allclose(kept, alone[group], atol=1e-4), f"{group} hears something else than the circuit"
    assert condense(host, state, method=method, allocation=kind, budget=BUDGET).to_bytes() == gene.to_bytes()


def test_weights_are_the_checkpoints_and_norms_are_fitted_to_the_circuit() -> None:
    host, state = place("resnet12")
    gene = condense(host, state, budget=BUDGET)
    for name in host.layout.inherited:
        if not name.endswith(("mean", "var")):
            assert torch.equal(gene.tensors[name], gather(state, host.layout, gene.genotype)[name]), name
    thin = thin_network("resnet12", gene.genotype, gene.tensors)
    with torch.no_grad():
        first = thin.get_submodule("stage1.a.conv")(to_input(host.train.images))
    assert torch.allclose(gene.tensors["stage1.a.norm.running_mean"], first.mean((0, 2, 3)), atol=1e-4)


def test_images_of_another_normalisation_make_no_difference() -> None:
    host, state = place()
    other = dict(state)
    other["conv1.conv.weight"] = (
        state["conv1.conv.weight"] / 3
    )  # as of a network whose inputs were three times as large
    other["conv1.norm.running_mean"] = state["conv1.norm.running_mean"] + 5
    one, two = (condense(host, each, method="taylor", budget=BUDGET) for each in (state, other))
    assert one.genotype == two.genotype
    assert one.provenance["winner"]["fitness"] == pytest.approx(two.provenance["winner"]["fitness"], abs=0.04)


# --- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_the_search_is_as_good_as_the_best_rule_and_says_how_long_it_looked(arch: str) -> None:
    host, state = place(arch)
    tensors = gather(state, host.layout, host.layout.full())
    pick = picker(tensors, host.layout, "l1")
    said: list[str] = []
    long = {"starts": 5, "generations": 3, "children": 3}
    found = search_allocation(host, tensors, pick, **long, say=said.append)
    assert 5 < found.evaluations <= 5 + 3 * 3 and len(said) == 3
    assert host.layout.circuit_share(found.counts) <= host.config.gene.budget
    assert set(found.rules) == set(ALLOCATIONS) and found.fitness >= max(found.rules.values())
    jury = Jury.called(host, "allocation search", host.config.critic.tasks)
    for counts, fitness in (
        (found.counts, found.fitness),
        *((allocation(host.layout, kind, host.config.gene.budget), found.rules[kind]) for kind in ALLOCATIONS),
    ):
        assert jury.cut(tensors, pick(counts))[1] == fitness, "all met the same tasks"
    deep = replace(host, config=changed_config(host.config, critic={"depths": 1}))
    assert replace(jury, world=deep).cut(tensors, pick(found.counts))[1] == found.fitness, (
        "a cut is judged at all depths"
    )
    assert search_allocation(host, tensors, pick, **long) == found


def test_a_search_keeps_the_floor_and_depends_on_the_seed() -> None:
    host, state = place()
    tensors = gather(state, host.layout, host.layout.full())
    pick = picker(tensors, host.layout, "bn")
    drawn = []
    for seed in (0, 1):
        gene = {"budget": 0.4, "initial_share": (0.4, 0.4), "min_channels": 3}
        config = host.config.model_copy(update={"seed": seed, "gene": host.config.gene.model_copy(update=gene)})
        judged: list[tuple[int, ...]] = []

        def noted(counts: Any, judged: list[tuple[int, ...]] = judged) -> Any:
            judged.append(tuple(counts.values()))
            return pick(counts)

        search_allocation(replace(host, config=config), tensors, noted, starts=5, generations=2, children=4)
        assert min(map(min, judged)) >= 3 and len(set(judged)) == len(judged)
        drawn.append(set(judged))
    assert len(drawn[0] & drawn[1]) <= len(ALLOCATIONS) + 1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"method": "l2"}, "unknown method 'l2'; known are l1, bn, random, taylor, activation, uniform"),
        ({"allocation": "late"}, "unknown allocation 'late'; known are uniform, early, level, searched"),
        ({"budget": 0.0}, "gene.budget"),
        ({"budget": 1.5}, "gene.budget"),
        (
            {"budget": 0.001},
            r"budget 0.001: 1 channel\(s\) in every group of this vgg11 already hold a share of 0.0212",
        ),
    ],
)
def test_choices_that_there_are_not(choice: dict[str, Any], says: str) -> None:
    host, state = place()
    with pytest.raises(ConfigError, match=says):
        condense(host, state, **choice)


def test_a_state_dict_of_another_network_is_refused() -> None:
    host, _ = place()
    with pytest.raises(ConfigError, match=r"the state dict has no conv1\.conv\.weight"):
        condense(host, place("resnet12")[1])


# --- what readers need -----------------------------------------------------------------------------------------------


def test_it_tells_where_it_comes_from_and_nothing_of_this_machine() -> None:
    host, state = place()
    gene = condense(
        host, state, method="taylor", allocation="early", budget=BUDGET, source={"name": "a.pt", "sha256": "ab"}
    )
    told = gene.provenance
    assert told["cut"] == {"channels": "taylor", "allocation": "early", "budget": BUDGET}
    assert told["checkpoint"] == {"name": "a.pt", "sha256": "ab"}
    assert told["images"]["total"] is None
    assert set(told["critic"]["reference"]) == {"scratch", "pretrained"}
    assert told["winner"]["fitness"] == one_shot(host, _fitted(host, state), gene.genotype.counts, "taylor").fitness
    assert told["config"]["data"]["root"] is None and "cluster" not in told["config"]
    unnamed = condense(host, state, budget=BUDGET).provenance["checkpoint"]
    assert len(unnamed["sha256"]) == 64 and unnamed["name"] == "state dict"


def _fitted(host: World, state: dict[str, torch.Tensor]) -> Any:
    full = host.layout.full()
    return Jury.for_one_shots(host).cut(gather(state, host.layout, full), full)[0]


def test_it_is_compared_with_scratch_and_its_images_are_unknown() -> None:
    host, state = place()
    gene = condense(host, state, budget=BUDGET)
    config = config_of(gene)
    assert isinstance(config, BaseModel) and config.gene.budget == BUDGET
    own = replace(host, config=config)
    found = {entrant.name: entrant for entrant in entrants(Setting(gene, own), ("scratch", "learngene"))}
    assert set(found) == {"scratch", "learngene"} and found["learngene"].images is None
    for name in ("pretrained", "one-shot"):
        with pytest.raises(
            DataError, match=r"is not known, .* no reference can be trained as long; compare --starts scratch"
        ):
            entrants(Setting(gene, own), ("scratch", name, "learngene"))
    assert Bench.prepare(gene, own, ("scratch", "learngene"), lambda text: None).images is None


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", KINDS)
def test_its_card_says_what_is_known(kind: str) -> None:
    host, state = place()
    card = card_markdown(condense(host, state, method="activation", allocation=kind, budget=BUDGET))
    assert "one-shot cut of a checkpoint" in card and "| training images | unknown |" in card
    assert "cut from a trained network with images of gratings" in card
    assert "| channels of a group | by activation |" in card and f"| channels per group | {kind}" in card
    assert ("which it was selected on" in card) == (kind == "searched")
    assert not any(word in card for word in ("population", "line of the winner", "a life", "generations"))
