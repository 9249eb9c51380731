"""Few-shot evaluation: every start meets the same images, its learning rate comes from validation classes alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from pico import CPU, GROUPS, config, gratings, spec

from gtl.config import FewShotSection, TrainingSection
from gtl.data.images import ImageSet
from gtl.errors import DataError
from gtl.fewshot import (
    SCRATCH,
    Start,
    StartResult,
    choose_learning_rate,
    compare_starts,
    fine_tune,
    instinct,
    verdict,
)
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
    results = {r.start: r for r in instinct(starts(learned), novel, compute=CPU, **numbers)}
    assert results["learngene"].accuracy.low > results[SCRATCH].accuracy.high + 0.1
    assert {r.episodes_digest for r in results.values()} == {results[SCRATCH].episodes_digest}, "the same episodes"
    for result in results.values():
        assert (result.n_way, result.n_shot, result.accuracy.n) == (5, 3, 40)
        json.dumps(result.to_json(), allow_nan=False)
    again = instinct(starts(learned), novel, compute=CPU, **numbers)
    assert again == list(results.values())
    other = instinct({SCRATCH: Nursery()}, novel, compute=CPU, **{**numbers, "seed": 3})
    assert other[0].episodes_digest != results[SCRATCH].episodes_digest


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
    curve = fine_tune(nursery, fit, test, section(steps=28), 0.05, 7, CPU)
    assert [classes for classes, _ in nursery.born] == [3]
    steps = [step for step, _ in curve]
    assert steps[0] == 0 and steps[-1] == 28 and steps == sorted(set(steps)) and len(steps) > 2
    assert curve[0][1] == accuracy(nursery(*nursery.born[0]), test, CPU), "before any training"
    assert curve[-1][1] > curve[0][1]
    assert fine_tune(Nursery(learned), fit, test, section(steps=28), 0.05, 7, CPU) == curve
    assert fine_tune(Nursery(learned), fit, test, section(steps=28), 0.05, 8, CPU) != curve


def test_training_that_diverges_scores_chance(novel: ImageSet) -> None:
    fit, test = novel.take_classes([0, 1, 2, 3]), novel.take_classes([0, 1, 2, 3])
    assert fine_tune(Nursery(), fit, test, section(), 1e9, 1, CPU)[-1] == (12, 0.25)


# --- the learning rate ---------------------------------------------------------------------------------------------


def test_the_learning_rate_that_does_best_is_chosen(val: ImageSet, learned: GeneTensors) -> None:
    for rates in ((1e-9, 0.05), (0.05, 1e-9)):
        chosen = choose_learning_rate(Nursery(learned), val, 4, section(learning_rates=rates), 1, CPU)
        assert chosen == 0.05


def test_one_candidate_needs_no_choice(val: ImageSet) -> None:
    nursery = Nursery()
    assert choose_learning_rate(nursery, val, 4, section(learning_rates=(0.3,)), 1, CPU) == 0.3
    assert nursery.born == []


def darkened(images: ImageSet) -> ImageSet:
    """The same classes with nothing to see."""
    return replace(images, images=torch.zeros_like(images.images))


def test_the_learning_rate_is_chosen_on_validation_classes_alone(
    novel: ImageSet, val: ImageSet, learned: GeneTensors
) -> None:
    rates = section(learning_rates=(1e-9, 0.05))

    def chosen(novel_: ImageSet, val_: ImageSet | None) -> dict[str, float]:
        results = compare_starts(starts(learned), novel_, rates, 3, CPU, val=val_)
        return {result.start: result.learning_rate for result in results}

    seen = chosen(novel, val)
    assert seen["learngene"] == 0.05
    assert chosen(darkened(novel), val) == seen, "whatever the novel images are"
    assert chosen(novel, darkened(val)) != seen, "with blind validation classes all are alike: the first"
    assert set(chosen(novel, None).values()) == {0.05}, "without any: the middle one"


def test_each_start_has_its_own_rate(novel: ImageSet, val: ImageSet, learned: GeneTensors) -> None:
    """One knows the validation classes by heart, and loses them in a real step: it had better not learn."""
    expert = build(spec("vgg11", classes=5), 0)
    train(expert, val, TrainingSection(batch_size=20, crop_padding=1), steps=60, seed=1, compute=CPU)
    with torch.no_grad():
        expert.head.weight.mul_(1e4)
        expert.head.bias.mul_(1e4)
    each: dict[str, Start] = {**starts(learned), "expert": lambda classes, seed: copy.deepcopy(expert)}
    results = compare_starts(each, novel, section(learning_rates=(0.05, 1e-9)), 3, CPU, val=val)
    rates = {result.start: result.learning_rate for result in results}
    assert rates["learngene"] == 0.05 and rates["expert"] == 1e-9


# --- the comparison ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(novel: ImageSet, val: ImageSet, learned: GeneTensors) -> list[StartResult]:
    each: Mapping[str, Start] = {**starts(learned), "twin": Nursery()}
    return compare_starts(each, novel, section(shots=(4, 8), learning_rates=(0.05,)), 3, CPU, val=val)


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


def test_curves_are_means_over_the_seeds(compared: list[StartResult]) -> None:
    for result in compared:
        assert result.curve[0][0] == 0 and result.curve[-1] == (12, pytest.approx(result.accuracy.mean))
        json.dumps(result.to_json(), allow_nan=False)


def test_every_seed_has_its_own_newborn_and_images(novel: ImageSet) -> None:
    nursery = Nursery()
    (result,) = compare_starts({SCRATCH: nursery}, novel, section(learning_rates=(0.1,)), 3, CPU, val=None)
    assert len(set(nursery.born)) == 3 and {classes for classes, _ in nursery.born} == {5}
    assert len(set(result.accuracies)) > 1
    again = compare_starts({SCRATCH: Nursery()}, novel, section(learning_rates=(0.1,)), 3, CPU, val=None)
    assert again == [result]
    other = compare_starts({SCRATCH: Nursery()}, novel, section(learning_rates=(0.1,)), 4, CPU, val=None)
    assert other[0].accuracies != result.accuracies


def test_too_few_images_are_refused_by_name(novel: ImageSet) -> None:
    with pytest.raises(DataError, match=r"class 'novel-0' has 20 images, 21 are needed"):
        compare_starts({SCRATCH: Nursery()}, novel, section(shots=(11,)), 3, CPU, val=None)


def test_the_verdict_says_what_was_shown(compared: list[StartResult]) -> None:
    twin = verdict(compared, "twin")
    assert twin.count("no difference shown from scratch (+0.0 to +0.0 points, n = 3)") == 2
    assert verdict(compared, SCRATCH) == ""

    def judged(low: float, high: float) -> str:
        gain = Estimate((low + high) / 2, low, high, 5)
        return verdict([replace(compared[1], start="x", shots=20, gain=gain)], "x")

    assert judged(0.01, 0.05) == "20 shots: better than scratch (+1.0 to +5.0 points, n = 5)"
    assert judged(-0.05, -0.01) == "20 shots: worse than scratch (-5.0 to -1.0 points, n = 5)"
    assert judged(-0.01, 0.05) == "20 shots: no difference shown from scratch (-1.0 to +5.0 points, n = 5)"
