"""A worker's world: the driver's, from arrays that no worker copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pico import equal, job, random_genotype, world

from gtl.life import World, evaluate
from gtl.population.worker import plain, prepare
from gtl.world import make_world


@pytest.fixture
def driver() -> World:
    return world(data={"source": "glyphs"})


def test_images_are_sent_padded_and_used_as_they_lie(driver: World) -> None:
    sent = plain(driver)
    for array in (sent.train.images, sent.val.images):
        array.flags.writeable = False  # as Ray's are
    _, found = prepare(sent)
    assert found.crops is not None and found.everything.crops is found.crops
    for images, array in ((found.train.images, sent.train.images), (found.val.images, sent.val.images)):
        assert np.shares_memory(images.numpy(), array)
    assert np.shares_memory(found.crops.padded.numpy(), sent.train.images)
    assert torch.equal(found.train.images, driver.train.images) and torch.equal(found.val.images, driver.val.images)


def test_a_life_there_is_a_life_here(driver: World) -> None:
    _, found = prepare(plain(driver))
    child = job(random_genotype(driver.layout.groups, 3))
    here, there = evaluate(child, (), driver), evaluate(child, (), found)
    assert here[0] is not None and there[0] is not None and equal(here[0], there[0])
    assert here[1].fitness == there[1].fitness


def test_a_run_keeps_its_train_images_once(driver: World) -> None:
    config = driver.config.model_copy(update={"data": driver.config.data.model_copy(update={
        "train_classes": 4, "val_classes": 4, "novel_classes": 4, "images_per_class": 8,
    })})  # fmt: skip
    made = make_world(config)
    assert made.crops is not None
    assert made.train.images.untyped_storage().data_ptr() == made.crops.padded.untyped_storage().data_ptr()
