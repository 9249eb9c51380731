"""Few-shot evaluation: every start meets the same images, its learning rate comes from validation classes alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
import torch
from pico import CPU, GROUPS, config, gratings, spec

from gtl.config import FewShotSection, TrainingSection
from gtl.data.images import ImageSet
from gtl.errors import DataError, NovelClassesError
from gtl.fewshot import SCRATCH, Rates, Start, StartResult, choose_rates, compare_starts, fine_tune, instinct
from gtl.genotype import Genotype
from gtl.models import ArchSpec, ConvNet, build
from gtl.phenotype import newborn
from gtl.stats import Estimate, paired_difference
from gtl.surgery import GeneTensors, gather
from gtl.training import accuracy, train


def section(**changes: object) -> FewShotSection:
    values = {"learning_rates": (0.01, 0.1), "seeds": 3, "test_images": 10, "steps": 12, "shots": (4,), **changes}
    return FewShotSection.model_validate({**config().fewshot.model_dump(), **values})


@pytest.fixture(scope="module")
def novel() -> ImageSet:
    return gratings(5, 20, "novel", noisy=0.5)


@pytest.fixture(scope="module")
def val() -> ImageSet:
    return gratings(5, 20, "val", noisy=0.5)


@pytest.fixture(scope="module")
def learned() -> GeneTensors:
    """Everything that a network knows after training on the train classes, head excluded."""
    network = build(spec("vgg11", classes=8), 0)
    recipe = TrainingSection(batch_size=32, crop_padding=2)
    train(network, gratings(8, 40, "train", noisy=0.5), recipe, steps=120, seed=1, compute=CPU)
    return gather(network.state_dict(), network.layout, network.layout.full())


class Nursery:
    """A start that remembers whom it bore."""

    def __init__(self, tensors: GeneTensors | None = None) -> None:
        self.tensors = tensors
        self.born: list[tuple[int, int]] = []

    def __call__(self, classes: int, seed: int) -> ConvNet:
        self.born.append((classes, seed))
        widths = tuple((group, 4) for group in GROUPS["vgg11"])
        host = ArchSpec("vgg11", widths, classes)
        if self.tensors is None:
            return build(host, seed)
        return newborn(host, Genotype.full(dict(widths)), self.tensors, seed)


def starts(learned: GeneTensors) -> dict[str, Start]:
    return {"learngene": Nursery(learned), SCRATCH: Nursery()}


# --- instinct ------------------------------------------------------------------------------------------------------


def test_instinct_of_the_learned_is_above_that_of_the_newborn(novel: ImageSet, learned: GeneTensors) -> None:
    numbers = {"n_way": 5, "n_shot": 3, "n_query": 4, "episodes": 40, "seed": 2}
    found = instinct(starts(learned), novel, compute=CPU, **numbers)
    results = {(r.start, r.method): r for r in found}
    for method in ("nearest class mean", "k nearest neighbours"):
        assert results["learngene", method].accuracy.low > results[SCRATCH, method].accuracy.high + 0.1
    assert len(found) == 4 and len({r.episodes_digest for r in found}) == 1, "the same episodes"
    for result in found:
        assert (result.n_way, result.n_shot, result.accuracy.n) == (5, 3, 40)
        json.dumps(result.to_json(), allow_nan=False)
    again = instinct(starts(learned), novel, compute=CPU, **numbers)
    assert again == found
    other = instinct({SCRATCH: Nursery()}, novel, compute=CPU, **{**numbers, "seed": 3})
    assert other[0].episodes_digest != found[0].episodes_digest


def test_instinct_trains_nothing(novel: ImageSet, learned: GeneTensors) -> None:
    """Each start bears one newborn, which is only looked at."""
    nursery = Nursery(learned)
    network = nursery(5, 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    instinct(
        {"it": lambda classes, seed: network}, novel, n_way=5, n_shot=2, n_query=3, episodes=3, seed=0, compute=CPU
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


# --- one descendant ------------------------------------------------------------------------------------------------


def test_a_descendant_trains_from_birth_to_the_end(novel: ImageSet, learned: GeneTensors) -> None:
    fit, test = novel.take_classes([0, 1, 2]), novel.take_classes([0, 1, 2])
    nursery = Nursery(learned)
    descendant = fine_tune(nursery, fit, test, section(steps=28), 0.05, 7, CPU)
    curve = descendant.curve
    assert [classes for classes, _ in nursery.born] == [3]
    steps = [step for step, _ in curve]
    assert steps[0] == 0 and steps[-1] == 28 and steps == sorted(set(steps)) and len(steps) > 2
    assert curve[0][1] == accuracy(nursery(*nursery.born[0]), test, CPU), "before any training"
    assert curve[-1][1] > curve[0][1]
    assert fine_tune(Nursery(learned), fit, test, section(steps=28), 0.05, 7, CPU) == descendant
    assert fine_tune(Nursery(learned), fit, test, section(steps=28), 0.05, 8, CPU) != descendant


def test_moments_are_only_looked_at(novel: ImageSet, learned: GeneTensors) -> None:
    few = novel.take_classes([0, 1, 2])
    looked = fine_tune(Nursery(learned), few, few, section(steps=28), 0.05, 7, CPU)
    unseen = fine_tune(Nursery(learned), few, few, section(steps=28), 0.05, 7, CPU, moments=())
    assert unseen.curve == looked.curve[-1:] and unseen.by_class == looked.by_class


def test_training_that_diverges_scores_chance(novel: ImageSet) -> None:
    fit, test = novel.take_classes([0, 1, 2, 3]), novel.take_classes([0, 1, 2, 3])
    lost = fine_tune(Nursery(), fit, test, section(), 1e9, 1, CPU)
    assert lost.curve[-1] == (12, 0.25) and lost.by_class == (0.25,) * 4


# --- the learning rate ---------------------------------------------------------------------------------------------


def test_the_learning_rate_that_does_best_is_chosen(val: ImageSet, learned: GeneTensors) -> None:
    for candidates in ((1e-9, 0.05), (0.05, 1e-9)):
        few = section(learning_rates=candidates, shots=(4, 7))
        rates = choose_rates({"it": Nursery(learned)}, val, few, 1, CPU)
        assert rates == {("it", 4): 0.05, ("it", 7): 0.05}


def test_one_candidate_needs_no_choice(val: ImageSet) -> None:
    nursery = Nursery()
    assert choose_rates({"it": nursery}, val, section(learning_rates=(0.3,)), 1, CPU) == {("it", 4): 0.3}
    assert nursery.born == []


def test_novel_classes_choose_nothing(novel: ImageSet, learned: GeneTensors) -> None:
    nursery = Nursery(learned)
    with pytest.raises(NovelClassesError, match="the choice of learning rates was given the novel classes"):
        choose_rates({"it": nursery}, novel, section(), 1, CPU)
    assert nursery.born == [], "refused before anything is trained"


def test_the_learning_rate_hangs_on_validation_images_alone(val: ImageSet, learned: GeneTensors) -> None:
    """It is chosen before novel images are there at all; blind validation classes choose otherwise."""
    few = section(learning_rates=(1e-9, 0.05))
    chosen = choose_rates(starts(learned), val, few, 3, CPU)
    assert chosen == choose_rates(starts(learned), val, few, 3, CPU) and chosen["learngene", 4] == 0.05
    blind = replace(val, images=torch.zeros_like(val.images))
    assert choose_rates(starts(learned), blind, few, 3, CPU)["learngene", 4] == 1e-9, "all alike: the first"


def test_each_start_has_its_own_rate(val: ImageSet, learned: GeneTensors) -> None:
    """One knows the validation classes by heart, and loses them in a real step: it had better not learn."""
    expert = build(spec("vgg11", classes=5), 0)
    train(expert, val, TrainingSection(batch_size=20, crop_padding=1), steps=60, seed=1, compute=CPU)
    with torch.no_grad():
        expert.head.weight.mul_(1e4)
        expert.head.bias.mul_(1e4)
    each: dict[str, Start] = {"learngene": Nursery(learned), "expert": lambda classes, seed: copy.deepcopy(expert)}
    rates = choose_rates(each, val, section(learning_rates=(0.05, 1e-9)), 3, CPU)
    assert rates == {("learngene", 4): 0.05, ("expert", 4): 1e-9}


def test_too_few_validation_images_are_refused_by_name(val: ImageSet) -> None:
    with pytest.raises(DataError, match=r"class 'val-0' has 20 images, 21 are needed"):
        choose_rates({"it": Nursery()}, val, section(shots=(20,)), 1, CPU)


# --- the comparison ------------------------------------------------------------------------------------------------


def rates_of(names: Iterable[str], rate: float, *shots: int) -> Rates:
    return {(name, shot): rate for name in names for shot in shots}


@pytest.fixture(scope="module")
def compared(novel: ImageSet, learned: GeneTensors) -> list[StartResult]:
    each: Mapping[str, Start] = {**starts(learned), "twin": Nursery()}
    rates = rates_of(each, 0.05, 4, 8) | {("learngene", 8): 0.04}
    return compare_starts(each, novel, section(shots=(4, 8)), rates, 3, CPU)


def test_gains_are_paired_with_scratch(compared: list[StartResult]) -> None:
    assert [(r.start, r.shots) for r in compared] == [
        (name, shots) for shots in (4, 8) for name in (SCRATCH, "learngene", "twin")
    ], "scratch first, whatever the order given"
    for shots in (4, 8):
        of = {r.start: r for r in compared if r.shots == shots}
        assert of[SCRATCH].gain is None
        assert of["twin"].accuracies == of[SCRATCH].accuracies, "same seeds, images and newborns"
        assert of["twin"].gain == Estimate(0.0, 0.0, 0.0, 3)
        assert of["learngene"].gain == paired_difference(of["learngene"].accuracies, of[SCRATCH].accuracies)
        assert of["learngene"].gain is not None and of["learngene"].gain.mean > 0.1
        assert all(r.accuracy.n == len(r.accuracies) == 3 for r in of.values())
        assert {name: r.learning_rate for name, r in of.items()} == {
            SCRATCH: 0.05, "twin": 0.05, "learngene": 0.04 if shots == 8 else 0.05,
        }  # fmt: skip


def test_curves_are_means_over_the_seeds(compared: list[StartResult]) -> None:
    for result in compared:
        assert result.curve[0][0] == 0 and result.curve[-1] == (12, pytest.approx(result.accuracy.mean))
        json.dumps(result.to_json(), allow_nan=False)


def test_every_seed_has_its_own_newborn_and_images(novel: ImageSet) -> None:
    nursery, rates = Nursery(), rates_of([SCRATCH], 0.1, 4)
    (result,) = compare_starts({SCRATCH: nursery}, novel, section(), rates, 3, CPU)
    assert len(set(nursery.born)) == 3 and {classes for classes, _ in nursery.born} == {5}
    assert len(set(result.accuracies)) > 1
    assert compare_starts({SCRATCH: Nursery()}, novel, section(), rates, 3, CPU) == [result]
    (other,) = compare_starts({SCRATCH: Nursery()}, novel, section(), rates, 4, CPU)
    assert other.accuracies != result.accuracies


def test_too_few_images_are_refused_by_name(novel: ImageSet) -> None:
    with pytest.raises(DataError, match=r"class 'novel-0' has 20 images, 21 are needed"):
        compare_starts({SCRATCH: Nursery()}, novel, section(shots=(11,)), rates_of([SCRATCH], 0.1, 11), 3, CPU)
