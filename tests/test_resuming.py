"""Long trainings that are killed go on from the last epoch that was saved, and end with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pico import CPU, equal, gratings, job, random_genotype, spec, world

from gtl import resuming
from gtl.config import TrainingSection
from gtl.data.images import ImageSet
from gtl.individual import Job, ParentGene, Status
from gtl.learngene.founders import pretrain
from gtl.life import evaluate
from gtl.models import ConvNet, build
from gtl.surgery import gather
from gtl.training import TrainingResult

RECIPE = TrainingSection(batch_size=8, crop_padding=1)
STEPS = 14  # of four an epoch


class Kill(BaseException):
    """As a signal does it: no handler of errors sees it."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(resuming, "SAVE_EVERY", 0.0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return gratings(4, 8)


def learned(
    images: ImageSet, *, kill_at: int | None = None, network: ConvNet | None = None, **changes: Any
) -> tuple[ConvNet, TrainingResult, int]:
    """A network that was trained, how that ended, and in how many steps of this process."""
    network, taken = network or build(spec(classes=4), 1), 0

    def count(*_: Any) -> None:
        nonlocal taken
        if taken == kill_at:
            raise Kill
        taken += 1

    hook = network.register_forward_pre_hook(count)
    options: dict[str, Any] = {"recipe": RECIPE, "key": lambda: {"pixels": images.digest}, "steps": STEPS, "seed": 5}
    options |= {"compute": CPU, **changes}
    try:
        result = resuming.train_resumable(network, images, options.pop("recipe"), **options)
    finally:
        hook.remove()
    return network, result, taken


def saved(cache: Path) -> list[Path]:
    return sorted(cache.glob("training-*")) if cache.exists() else []


@pytest.mark.parametrize("optimiser", ["sgd", "muon"])
@pytest.mark.parametrize(("kill_at", "left"), [(3, STEPS), (4, STEPS - 4), (11, STEPS - 8), (13, STEPS - 12)])
def test_f43_what_was_killed_ends_with_the_same_bytes(
    images: ImageSet, cache: Path, optimiser: str, kill_at: int, left: int
) -> None:
    recipe = RECIPE.model_copy(update={"optimiser": optimiser})
    whole, result, _ = learned(images, recipe=recipe)
    assert saved(cache) == [], "nothing is left of what is done"
    with pytest.raises(Kill):
        learned(images, recipe=recipe, kill_at=kill_at)
    assert len(saved(cache)) == (left < STEPS)
    again, rest, taken = learned(images, recipe=recipe)
    assert taken == left and equal(again.state_dict(), whole.state_dict())
    assert rest.images == result.images == STEPS * 8 and rest.finite
    assert saved(cache) == []


DYING = """
import os, signal, sys
from test_resuming import gratings, learned, resuming
save, resuming.SAVE_EVERY = resuming._save, 0.0
def save_and_die(name, saved):
    save(name, saved)
    if saved.step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
resuming._save = save_and_die
learned(gratings(4, 8))
"""


def test_f43_a_process_that_was_killed(images: ImageSet, cache: Path) -> None:
    whole, _, _ = learned(images)
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths}
    dead = subprocess.run([sys.executable, "-c", DYING], env=environment, capture_output=True, check=False)
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    again, _, taken = learned(images)
    assert taken == STEPS - 8 and equal(again.state_dict(), whole.state_dict())


def test_it_may_be_killed_again_and_again(images: ImageSet, cache: Path) -> None:
    whole, _, _ = learned(images)
    for _ in range(3):
        with pytest.raises(Kill):
            learned(images, kill_at=5)  # an epoch and a step each time
    again, _, taken = learned(images)
    assert taken == STEPS - 12 and equal(again.state_dict(), whole.state_dict())


def test_only_the_same_training_goes_on(images: ImageSet, cache: Path) -> None:
    with pytest.raises(Kill):
        learned(images, kill_at=9)
    other: dict[str, dict[str, Any]] = {
        "seed": {"seed": 6},
        "steps": {"steps": STEPS + 1},
        "recipe": {"recipe": RECIPE.model_copy(update={"learning_rate": 0.01})},
        "images or loss": {"key": lambda: {"pixels": "others"}},
        "weights": {"network": build(spec(classes=4), 2)},
        "scale": {"update_scale": {"conv1.weight": torch.zeros(1)}},
    }
    for what, changes in other.items():
        _, _, taken = learned(images, **changes)
        assert taken == changes.get("steps", STEPS), what
    assert learned(images)[2] == STEPS - 8


def test_short_trainings_leave_nothing(images: ImageSet, cache: Path) -> None:
    def key() -> dict[str, Any]:
        raise AssertionError("pixels were looked at for nothing")

    with pytest.raises(Kill):
        learned(images, steps=4, kill_at=3, key=key)
    assert learned(images, steps=4)[2] == 4 and not cache.exists()


def test_seldom_enough(images: ImageSet, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "SAVE_EVERY", 1000.0)
    with pytest.raises(Kill):
        learned(images, kill_at=13)
    assert saved(cache) == []


@pytest.mark.parametrize("how", ["cut", "flipped", "gone", "a folder"])
def test_what_cannot_be_read_is_done_again(images: ImageSet, cache: Path, how: str) -> None:
    whole, _, _ = learned(images)
    with pytest.raises(Kill):
        learned(images, kill_at=9)
    (file,) = saved(cache)
    data = bytearray(file.read_bytes())
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how != "gone":
        data[len(data) // 2] ^= 1
        file.write_bytes(data if how == "flipped" else data[: len(data) // 2])
    again, _, taken = learned(images)
    assert taken == STEPS and equal(again.state_dict(), whole.state_dict())


def test_a_folder_that_cannot_be_written_stops_nothing(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "file"))
    assert learned(images)[2] == STEPS


def test_abandoned_ones_are_forgotten_and_nothing_else(images: ImageSet, cache: Path) -> None:
    cache.mkdir()
    half, other = ".training-old.npz.0123.tmp", ".tensors-old.safetensors.0123.tmp"  # killed while they were written
    names = ("training-old.npz", half, "training-new.npz", "tensors-old.safetensors", other)
    for name in names:
        (cache / name).write_bytes(b"x")
        old = time.time() - (resuming.ABANDONED + 60 if "old" in name else 60)
        os.utime(cache / name, (old, old))
    learned(images)
    assert {path.name for path in cache.iterdir()} == set(names[2:])


# --- whole lives and references ------------------------------------------------------------------------------------


@pytest.fixture
def killed_at_eight(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Steps at which whoever saves is killed right after it, the first time that they are reached."""
    deaths, save = [8], resuming._save

    def save_and_die(name: str, saved: resuming.Saved) -> None:
        save(name, saved)
        if saved.step in deaths:
            deaths.remove(saved.step)
            raise Kill

    monkeypatch.setattr(resuming, "_save", save_and_die)
    yield deaths
    assert deaths == [], "nobody was killed"


@pytest.mark.parametrize("life", [{}, {"host": "circuit"}, {"distill": 0.5}, {"gene_update": 0.0}])
def test_f43_a_life_goes_on(life: dict[str, Any], killed_at_eight: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight images a batch of 32: four steps an epoch."""
    place = world("vgg11", life={"steps": 12, "n_way": 4, "training": {"batch_size": 8}, **life})
    genotype = random_genotype(place.layout.groups, 1, 0.6)
    cut = gather(build(place.host, 3).state_dict(), place.layout, genotype)
    teacher = build(place.host, 9).state_dict()
    work: Job = job(genotype, (ParentGene("mother", "m", genotype),), teacher="t" if "distill" in life else None)
    genes = [cut, teacher] if "distill" in life else [cut]
    with pytest.raises(Kill):
        evaluate(work, genes, place)
    steps: list[int] = []
    monkeypatch.setattr(resuming, "train", counted(steps))
    tensors, judged = evaluate(work, genes, place)
    assert steps == [8] and judged.status is Status.OK and tensors is not None
    plain, same = evaluate(work, genes, place)
    assert plain is not None and equal(tensors, plain) and steps == [8, 0]
    assert (judged.fitness, judged.images, judged.metrics) == (same.fitness, same.images, same.metrics)


def counted(steps: list[int]) -> Any:
    """`train`, which notes at what step it began."""
    train = resuming.train

    def noting(*args: Any, resume: resuming.Progress | None = None, **options: Any) -> TrainingResult:
        steps.append(0 if resume is None else resume.step)
        return train(*args, resume=resume, **options)

    return noting


def test_f43_a_reference_goes_on(killed_at_eight: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    place = world("vgg11", founders={"kind": "ancestor", "training": {"batch_size": 8}})
    with pytest.raises(Kill):
        pretrain(place, 12, 7)
    steps: list[int] = []
    monkeypatch.setattr(resuming, "train", counted(steps))
    network, result = pretrain(place, 12, 7)
    again, whole = pretrain(place, 12, 7)
    assert steps == [8, 0] and result.images == whole.images == 96
    assert equal(network.state_dict(), again.state_dict())
    assert np.isfinite(result.loss)
