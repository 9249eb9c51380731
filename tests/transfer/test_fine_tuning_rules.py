"""What holds for every rule of fine-tuning, and what the registry, starts and opponents make of them."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import ARCHS, CPU, config, equal, gratings, random_genotype, spec, world

from gtl.config import FewShotSection, TrainingSection
from gtl.config_file import overridden
from gtl.data.images import ImageSet
from gtl.errors import ConfigError
from gtl.fewshot import fine_tune
from gtl.genotype import Genotype
from gtl.learngene.artifact import Learngene
from gtl.learngene.opponents import Setting, evolved
from gtl.learngene.starts import gene_start, scratch_start
from gtl.models import ConvNet, build
from gtl.surgery import gather
from gtl.training import Progress, TrainingResult, accuracy, train
from gtl.transfer.annealing import SubnetworkAnnealing
from gtl.transfer.child_tuning import ChildTuningDriven, ChildTuningFree
from gtl.transfer.fine_tuning import RULES, Plain, fine_tuning
from gtl.transfer.rule import Rule, head_names
from gtl.transfer.tuned_opponents import TUNED_OPPONENTS
from gtl.transfer.weight_mixup import WeightMixup
from gtl.transfer_section import TransferSection

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import fine_tuning as benchmark

RECIPE = TrainingSection(batch_size=8, crop_padding=2)
STEPS = 12


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return gratings(3, 11)


def genotype_of(arch: str = "vgg11", share: float | None = 0.5) -> Genotype:
    widths = dict(spec(arch).widths)
    return Genotype.full(widths) if share is None else random_genotype(widths, 3, share)


def all_rules(arch: str = "vgg11") -> list[Rule]:
    return [fine_tuning(name, genotype=genotype_of(arch)) for name in RULES]


def trained(rule: Rule, images: ImageSet, arch: str = "vgg11", **options: Any) -> tuple[ConvNet, TrainingResult]:
    network = build(spec(arch), 1)
    settings: dict[str, Any] = {"steps": STEPS, "seed": 5, "compute": CPU, **options}
    return network, rule.train(network, images, settings.pop("recipe", RECIPE), **settings)


# --- the loop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_settings_that_change_nothing_are_the_plain_training_to_the_last_bit(images: ImageSet, arch: str) -> None:
    plain = build(spec(arch), 1)
    wanted = train(plain, images, RECIPE, steps=STEPS, seed=5, compute=CPU)
    for rule in (
        Plain(),
        ChildTuningFree(probability=1.0),
        ChildTuningDriven(share=1.0),
        SubnetworkAnnealing(genotype_of(arch, None)),
        WeightMixup(initial=1.0, search=0.0),
    ):
        network, result = trained(rule, images, arch)
        assert equal(network.state_dict(), plain.state_dict()), rule.name
        assert replace(result, seconds=wanted.seconds) == wanted, rule.name


def test_all_others_change_something(images: ImageSet) -> None:
    states = [trained(rule, images)[0].state_dict() for rule in all_rules()]
    assert not any(equal(one, other) for i, one in enumerate(states) for other in states[:i])


@pytest.mark.parametrize("name", RULES)
def test_a_training_is_a_function_of_its_seed(images: ImageSet, name: str) -> None:
    rule = fine_tuning(name, genotype=genotype_of())
    before = torch.get_rng_state()
    (one, result), (same, _), (other, _) = (trained(rule, images, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(one.state_dict(), same.state_dict()) and not equal(one.state_dict(), other.state_dict())
    assert result.finite and STEPS * 8 - 4 <= result.images <= STEPS * 8 + 33


@pytest.mark.parametrize("name", RULES)
def test_a_watched_training_is_the_same_training(images: ImageSet, name: str) -> None:
    rule = fine_tuning(name, genotype=genotype_of())
    network, seen = build(spec(), 1), []

    def watch(progress: Progress) -> None:
        seen.append(progress.step)
        accuracy(network, images, CPU)

    rule.train(network, images, RECIPE, steps=STEPS, seed=5, compute=CPU, on_epoch=watch)
    assert equal(network.state_dict(), trained(rule, images)[0].state_dict())
    assert seen == sorted(set(seen)) and len(seen) > 1 and seen[-1] < STEPS


@pytest.mark.parametrize("name", RULES)
def test_divergence_is_reported_and_not_raised(images: ImageSet, name: str) -> None:
    wild = RECIPE.model_copy(update={"learning_rate": 1e9})
    _, result = trained(fine_tuning(name, genotype=genotype_of()), images, recipe=wild)
    assert not result.finite


@pytest.mark.parametrize("name", RULES)
def test_no_steps_train_nothing(images: ImageSet, name: str) -> None:
    network, result = trained(fine_tuning(name, genotype=genotype_of()), images, steps=0)
    before = build(spec(), 1)
    if name == SubnetworkAnnealing.name:
        circuit = gather(network.state_dict(), network.layout, genotype_of())
        assert equal(circuit, gather(before.state_dict(), network.layout, genotype_of()))
    else:
        assert equal(network.state_dict(), before.state_dict())
    assert result.finite and result.images == (33 if name == ChildTuningDriven.name else 0)


def test_the_head_is_the_last_linear_layer() -> None:
    for arch in ARCHS:
        assert head_names(build(spec(arch))) == {"head.weight", "head.bias"}
    assert head_names(torch.nn.Conv2d(3, 3, 1)) == frozenset()


# --- values --------------------------------------------------------------------------------------------------------


def test_rules_are_recognised_by_what_they_do() -> None:
    rules = [
        *all_rules(), ChildTuningFree(0.31), ChildTuningDriven(images=3), WeightMixup(rate=0.5),
        SubnetworkAnnealing(genotype_of(share=0.25)), SubnetworkAnnealing(genotype_of(), unit="channel"),
    ]  # fmt: skip
    assert len({rule.digest for rule in rules}) == len(rules)
    for rule in rules:
        json.dumps(rule.options)
        again = pickle.loads(pickle.dumps(rule))
        assert again == rule and again.digest == rule.digest and RULES[rule.name] is type(rule)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("child-tuning-free", {"probability": 0.0}, "probability is 0.0; give a number above 0 and at most 1"),
        ("child-tuning-free", {"probability": "high"}, "probability is 'high'"),
        ("child-tuning-driven", {"share": 1.5}, "share is 1.5; give a number above 0 and at most 1"),
        ("child-tuning-driven", {"share": float("nan")}, "share is nan"),
        ("child-tuning-driven", {"images": 2.5}, "images is 2.5; give a whole number at least 1"),
        ("subnetwork-annealing", {"initial": -0.1}, "initial is -0.1; give a number at least 0 and at most 1"),
        ("subnetwork-annealing", {"duration": 0}, "duration is 0; give a number above 0 and at most 1"),
        ("subnetwork-annealing", {"schedule": "steps"}, "schedule is 'steps'; give cosine or linear"),
        ("subnetwork-annealing", {"unit": "layer"}, "unit is 'layer'; give parameter or channel"),
        ("weight-mixup", {"search": 1.0}, "search is 1.0; give a number at least 0 and below 1"),
        ("weight-mixup", {"held_out": True}, "held_out is True; give a number above 0 and below 1"),
        ("weight-mixup", {"every": 1}, "every is 1; give a whole number at least 2"),
        ("weight-mixup", {"speed": 1}, r"has no options \['speed'\]; it has initial, search, held_out, every, rate"),
        ("plain", {"genotype": 1}, r"plain has no options \['genotype'\]; it has none"),
        ("mixup", {}, "unknown fine-tuning rule 'mixup'; known are plain, child-tuning-free"),
    ],
)
def test_wrong_options_are_named_with_the_remedy(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fine_tuning(name, options, genotype=genotype_of())


def test_options_are_taken_and_annealing_needs_a_gene() -> None:
    assert fine_tuning("weight-mixup", {"rate": 0.1}) == WeightMixup(rate=0.1)
    found = fine_tuning("subnetwork-annealing", {"unit": "channel"}, genotype=genotype_of())
    assert found == SubnetworkAnnealing(genotype_of(), unit="channel")
    with pytest.raises(ConfigError, match="start the descendant from a gene"):
        fine_tuning("subnetwork-annealing")


@pytest.mark.parametrize("name", RULES)
def test_the_configuration_has_the_rules_own_options_and_defaults(name: str) -> None:
    section = TransferSection()
    assert section.options_of(name) == fine_tuning(name, genotype=genotype_of()).options
    assert name in typing.get_args(TransferSection.model_fields["fine_tuning"].annotation)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("child_tuning_free.probability", 0.0),
        ("child_tuning_driven.share", 1.5),
        ("child_tuning_driven.images", 0),
        ("subnetwork_annealing.duration", 0.0),
        ("subnetwork_annealing.initial", -0.1),
        ("weight_mixup.search", 1.0),
        ("weight_mixup.held_out", 0.0),
        ("weight_mixup.every", 1),
        ("weight_mixup.rate", 0.0),
    ],
)
def test_what_a_rule_refuses_the_configuration_refuses_before(key: str, value: float) -> None:
    rule, option = key.split(".")
    with pytest.raises(ConfigError, match=rf"transfer\.{rule}\.{option}"):
        overridden(config(), [f"transfer.{key}={value}"])
    with pytest.raises(ConfigError, match=option):
        fine_tuning(rule.replace("_", "-"), {option: value}, genotype=genotype_of())


# --- starts, opponents, benchmark ----------------------------------------------------------------------------------


def test_a_start_without_a_training_keeps_its_digest() -> None:
    words = ["vgg11", [[group, width] for group, width in spec().widths], None, False, []]
    scratch = scratch_start(spec())
    assert scratch.digest == hashlib.sha256(json.dumps(words).encode()).hexdigest()
    others = {replace(scratch, training=rule).digest for rule in all_rules()}
    assert others == {scratch.digest}, "newborns are the same; the rule's own digest tells their trials apart"
    assert len({rule.digest for rule in all_rules()}) == len(RULES)


def test_descendants_are_trained_by_their_starts_rule(images: ImageSet) -> None:
    section = FewShotSection.model_validate({**config().fewshot.model_dump(), "steps": 20})
    donor = build(spec(), 2)
    start = gene_start(spec(), genotype_of(), gather(donor.state_dict(), donor.layout, genotype_of()))

    def found(rule: Rule | None) -> object:
        return fine_tune(replace(start, training=rule), images, images, section, 0.1, 7, CPU)

    plain = found(None)
    assert found(Plain()) == plain
    assert all(found(rule) != plain for rule in all_rules() if rule != Plain())


def test_opponents_are_the_learngene_trained_otherwise() -> None:
    place = world()
    genotype = random_genotype(place.layout.groups, 1, 0.5)
    gene = Learngene("vgg11", genotype, gather(build(place.host, 9).state_dict(), place.layout, genotype))
    setting = Setting(gene, place)
    (own,) = evolved(setting)
    found = [entrant for make in TUNED_OPPONENTS.values() for entrant in make(setting)]
    assert [entrant.name for entrant in found] == [f"learngene + {name}" for name in RULES if name != Plain.name]
    for entrant in found:
        assert (entrant.share, entrant.images) == (own.share, own.images)
        assert equal(entrant.start(3, 4).state_dict(), own.start(3, 4).state_dict()), "the same newborns"
        assert entrant.start.training is not None and own.start.training is None
        json.dumps(entrant.to_json())
    changed = replace(place, config=overridden(place.config, ["transfer.weight_mixup.rate=0.5"]))
    (mixed,) = TUNED_OPPONENTS["weight-mixup"](Setting(gene, changed))
    assert mixed.start.training == WeightMixup(rate=0.5) and mixed.about["fine_tuning"]["rate"] == 0.5
    trainings = [entrant.start.training for entrant in found]
    assert len({training.digest for training in trainings if training}) == len(RULES) - 1


def test_the_benchmark_runs_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--rules", "subnetwork-annealing"]
    assert benchmark.main([*words, "--out", str(tmp_path / "one.json")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = ["plain", "subnetwork-annealing"]
    assert [line["name"] for line in lines] == [f"{name}, 3 shots" for name in names]
    assert lines[0]["gain over plain, points"]["mean"] == 0.0 and {line["n"] for line in lines} == {2}
    assert benchmark.main([*words, "--out", str(tmp_path / "two.json")]) == 0
    assert "rate 0.03, seed" not in capsys.readouterr().err, "nothing is trained again"
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["figures"] == two["figures"] and str(tmp_path) not in str(one)
