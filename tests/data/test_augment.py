"""Batched augmentation equals the plain thing, image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gtl.data import Augmenter, ImageSet, Splits, to_input
from gtl.data.augment import pad_images
from gtl.errors import DataError


def image_set(count: int = 40, size: int = 32, mirror: bool = True) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.zeros(count, dtype=torch.int64), ("all",), "train", "noise", mirror)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("fill", ["reflect", "zero"])
@pytest.mark.parametrize(
    ("pad", "size", "mirror"), [(4, 32, True), (2, 28, True), (4, 32, False), (0, 32, True), (8, 84, True)]
)
def test_equals_a_plain_loop(fill: Any, pad: int, size: int, mirror: bool) -> None:
    images = image_set(30, size, mirror)
    augmenter = Augmenter(images, pad=pad, fill=fill)
    rows = torch.randint(0, 30, (50,), generator=generator(0))
    crops = augmenter.draw(50, generator())
    batch = augmenter.batch(rows, generator())
    mode: Any = {"reflect": "reflect", "zero": "constant"}[fill]
    for i, row in enumerate(rows.tolist()):
        padded = np.pad(images.images[row].numpy(), ((pad, pad), (pad, pad), (0, 0)), mode=mode)
        top, left = int(crops.top[i]), int(crops.left[i])
        expected = padded[top : top + size, left : left + size]
        if crops.mirrored[i]:
            expected = expected[:, ::-1]
        assert np.array_equal(batch[i].numpy(), expected)
    assert batch.dtype == torch.uint8 and batch.shape == (50, size, size, 3) and batch.is_contiguous()


def test_draws_differ_from_sample_to_sample_and_cover_the_range() -> None:
    crops = Augmenter(image_set(), pad=4).draw(2000, generator())
    assert sorted(set(crops.top.tolist())) == sorted(set(crops.left.tolist())) == list(range(9))
    assert 850 < crops.mirrored.sum() < 1150
    assert abs(np.corrcoef(crops.top, crops.left)[0, 1]) < 0.1


def test_one_image_many_times_gives_many_views() -> None:
    batch = Augmenter(image_set(), pad=4).batch(torch.zeros(200, dtype=torch.int64), generator())
    assert len({image.numpy().tobytes() for image in batch}) > 80  # of 9 x 9 x 2


def test_same_generator_same_batch_and_global_state_untouched() -> None:
    augmenter, rows = Augmenter(image_set()), torch.arange(40)
    state = torch.get_rng_state()
    shared = generator()
    first, second = augmenter.batch(rows, shared), augmenter.batch(rows, shared)
    assert not torch.equal(first, second)
    again = generator()
    assert torch.equal(augmenter.batch(rows, again), first) and torch.equal(augmenter.batch(rows, again), second)
    assert torch.equal(torch.get_rng_state(), state)


def test_characters_are_not_mirrored_unless_asked(glyphs: Splits) -> None:
    assert not Augmenter(glyphs["train"]).draw(100, generator()).mirrored.any()
    assert Augmenter(glyphs["train"], mirror=True).draw(100, generator()).mirrored.any()


def test_mirroring_does_not_change_what_else_is_drawn() -> None:
    drawn = []
    for mirror in (True, False):
        shared = generator()
        augmenter = Augmenter(image_set(mirror=mirror))
        augmenter.draw(10, shared)
        drawn.append(augmenter.draw(10, shared).top)
    assert torch.equal(*drawn)


def test_no_padding_no_mirror_is_the_image_itself() -> None:
    images = image_set(mirror=False)
    batch = Augmenter(images, pad=0).batch(torch.arange(40), generator())
    assert torch.equal(batch, images.images)


def test_padding_by_hand_equals_numpy() -> None:
    images = image_set(3, 8).images
    expected = np.pad(images.numpy(), ((0, 0), (7, 7), (7, 7), (0, 0)), mode="reflect")
    assert np.array_equal(pad_images(images, 7).numpy(), expected)


@pytest.mark.parametrize("pad", [-1, 32])
def test_pads_that_make_no_sense(pad: int) -> None:
    with pytest.raises(DataError, match=rf"pad is {pad}, it must lie in 0\.\.31"):
        Augmenter(image_set(), pad=pad)


def test_to_input() -> None:
    batch = image_set(5).images
    inputs = to_input(batch)
    assert inputs.shape == (5, 3, 32, 32) and inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    expected = (batch.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(inputs.double(), expected, rtol=0, atol=1e-6)
    plain = to_input(batch, torch.contiguous_format)
    assert plain.is_contiguous() and torch.equal(plain, inputs)
    assert torch.equal(batch, image_set(5).images)  # not changed


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    images, rows = image_set(), torch.arange(40)
    here = Augmenter(images).batch(rows, generator())
    there = Augmenter(images.to("cuda")).batch(rows.cuda(), generator())
    assert torch.equal(here, there.cpu())
