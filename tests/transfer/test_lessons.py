"""Lessons: the parent first learns the descendant's classes, the same in every process, and then takes part."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico import CPU, config, equal, gratings, spec

from gtl.config import TrainingSection
from gtl.data.images import ImageSet
from gtl.distillation import Teacher
from gtl.errors import ConfigError
from gtl.fewshot import Arena, Trial, fine_tune, run_here
from gtl.learngene.starts import Initialisation, gene_start, scratch_start
from gtl.models import build
from gtl.seeds import derive
from gtl.surgery import gather
from gtl.training import Compute, train
from gtl.transfer.hkt import HKT
from gtl.transfer.lessons import TRANSFERS, Distillation, HereditaryTransfer, Lesson, Parent
from gtl.transfer_section import TransferSection
from gtl.trials import Trials

RECIPE = TrainingSection(batch_size=8, crop_padding=1, learning_rate=0.05)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def whole() -> Initialisation:
    """A start that bears the parent: wider than the descendants, and all of it inherited."""
    network = build(spec("vgg11", 6), 3)
    full = network.layout.full()
    return gene_start(spec("vgg11", 6), full, gather(network.state_dict(), network.layout, full))


def few(classes: int = 3, each: int = 4) -> ImageSet:
    return gratings(classes, each, "novel", noisy=0.5)


def grown(parent: Parent, images: ImageSet, seed: int = 5, compute: Compute = CPU) -> dict[str, torch.Tensor]:
    network, result = parent.grown(images, RECIPE, steps=4, seed=seed, compute=compute)
    assert result.images == 4 * 8 and not network.training
    return network.state_dict()


# --- the parent ----------------------------------------------------------------------------------------------------


def test_a_parent_learns_the_descendants_classes_from_its_images() -> None:
    found = grown(Parent(whole()), few())
    inherited = whole()(3, 0).state_dict()
    assert found["head.bias"].shape == (3,) and not torch.equal(
        found["conv1.conv.weight"], inherited["conv1.conv.weight"]
    )


def test_a_parent_comes_out_of_the_seed_and_is_trained_once(cache: Path) -> None:
    first = grown(Parent(whole()), few())
    assert len(list(cache.iterdir())) == 1
    _, again = Parent(whole()).grown(few(), RECIPE, steps=4, seed=5, compute=CPU)
    assert again.seconds == 0.0 and again.images == 32, "read, and counted all the same"
    assert equal(first, grown(Parent(whole()), few()))
    for path in cache.iterdir():
        path.unlink()
    assert equal(first, grown(Parent(whole()), few())), "trained again: the same bits"
    others = [
        grown(Parent(whole()), few(), seed=6),
        grown(Parent(whole()), few(each=5)),
        grown(Parent(whole(), rates=((4, 0.2),)), few()),
    ]
    assert len({float(each["conv1.conv.weight"].sum()) for each in (first, *others)}) == 4


def test_rates_are_for_numbers_of_shots() -> None:
    """With other numbers the descendant's own."""
    plain = grown(Parent(whole()), few())
    assert equal(plain, grown(Parent(whole(), rates=((7, 0.2),)), few()))
    assert equal(plain, grown(Parent(whole(), rates=((4, RECIPE.learning_rate),)), few()))


def test_a_parent_of_other_images_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trained on images of 84 pixels, the descendant's have 16"):
        grown(Parent(whole(), image_size=84), few())
    grown(Parent(whole(), image_size=16), few())


# --- lessons -------------------------------------------------------------------------------------------------------


def lesson(kind: str, **section: object) -> Lesson:
    return TRANSFERS[kind](Parent(whole()), TransferSection.model_validate(section))


def test_hkt_trains_the_network_in_place_as_its_two_parts_would() -> None:
    student, twin = build(spec("vgg11"), 1), build(spec("vgg11"), 1)
    made = lesson("hkt", mixer="learnable", taps=("conv6", "pooled"))
    result = made.train(student, few(), RECIPE, steps=4, seed=5, compute=CPU)
    assert result.finite and result.images == 2 * 4 * 8, "the parent's images count"
    parent, _ = made.parent.grown(few(), RECIPE, steps=4, seed=5, compute=CPU)
    network = HKT(twin, parent, image_size=16, mixer="learnable", taps=("conv6", "pooled"), seed=derive(5, "transfer"))
    train(network, few(), RECIPE, steps=4, seed=5, compute=CPU, loss=network.loss)
    assert equal(student.state_dict(), twin.state_dict())


def test_distillation_asks_for_the_parents_answers() -> None:
    student, twin = build(spec("vgg11"), 1), build(spec("vgg11"), 1)
    made = lesson("distillation", distill=0.7, temperature=2.0)
    made.train(student, few(), RECIPE, steps=4, seed=5, compute=CPU)
    parent, _ = made.parent.grown(few(), RECIPE, steps=4, seed=5, compute=CPU)
    teacher = Teacher.copied(parent, share=0.7, temperature=2.0, label_smoothing=0.0, compute=CPU)
    train(twin, few(), RECIPE, steps=4, seed=5, compute=CPU, loss=teacher.loss)
    assert equal(student.state_dict(), twin.state_dict())


def test_what_cannot_be_is_refused_before_anything_is_trained(cache: Path) -> None:
    with pytest.raises(ConfigError, match="tap 'stage2': the child has no such stage"):
        lesson("hkt", taps=("stage2",)).train(build(spec(), 1), few(), RECIPE, steps=4, seed=5, compute=CPU)
    assert not cache.exists()


def test_a_parent_that_diverges_ends_the_lesson(cache: Path) -> None:
    made = HereditaryTransfer(Parent(whole(), rates=((4, 1e9),)))
    section = config().fewshot
    found = fine_tune(replace(scratch_start(spec()), training=made), few(), few(), section, 0.05, 1, CPU)
    assert found.by_class == (1 / 3,) * 3 and not cache.exists(), "chance, and nothing of it is kept"


def test_digests_tell_lessons_apart_also_in_another_process() -> None:
    parent = Parent(whole())
    lessons = [
        HereditaryTransfer(parent),
        Distillation(parent),
        HereditaryTransfer(parent, TransferSection(mixer="static")),
        HereditaryTransfer(parent, TransferSection(released=True)),
        HereditaryTransfer(Parent(whole(), rates=((4, 0.1),))),
        HereditaryTransfer(Parent(scratch_start(spec()))),
    ]
    digests = [each.digest for each in lessons]
    assert len(set(digests)) == len(digests)
    assert [pickle.loads(pickle.dumps(each)).digest for each in lessons] == digests
    assert HereditaryTransfer(Parent(whole())).digest == digests[0]


def test_trials_of_taught_starts_are_kept_apart(cache: Path) -> None:
    """Newborns are the same, so their digests are; how they are trained is not."""
    starts = {kind: replace(scratch_start(spec()), training=lesson(kind)) for kind in TRANSFERS}
    section = config().fewshot.model_copy(update={"steps": 4})
    arena = Arena({"scratch": scratch_start(spec()), **starts}, gratings(3, 12, "novel"), section, 5, CPU)
    trials = [Trial("novel", name, 3, 0.05, 0) for name in arena.starts]
    found = Trials()(arena, trials, lambda text: None)
    assert len(list(cache.glob("trial-*"))) == 3 and len({each.curve[0] for each in found}) == 1
    assert len(list(cache.glob("tensors-*"))) == 1, "one parent for both"
    assert found == run_here(arena, trials, lambda text: None)
