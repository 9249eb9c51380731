"""One integer per purpose, the same everywhere."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import torch

from gtl.seeds import derive, rng


def test_the_same_words_give_the_same_seed_on_every_machine() -> None:
    assert derive(0, "life", 3, 7) == 1354268840766087429, "changing this changes every run ever made"
    assert derive(2**63 - 1, "x") == 3956225018517528803


def test_every_word_and_its_kind_counts() -> None:
    words = [
        (0,),
        (1,),
        (0, 1),
        (0, "1"),
        (0, 1, 2),
        (0, 12),
        (0, "1/2"),
        (0, "1", "2"),
        (0, 2, 1),
        (-1,),
        (0, ""),
        (0, "/"),
    ]
    seeds = {derive(*each) for each in words}
    assert len(seeds) == len(words)


def test_seeds_fit_every_generator_and_spread() -> None:
    seeds = [derive(root, "purpose", number) for root, number in product(range(20), range(50))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert 0.4 < np.mean([seed >= 2**62 for seed in seeds]) < 0.6
    torch.Generator().manual_seed(max(seeds))


def test_rng_is_fresh_each_time_and_leaves_the_global_state_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert rng(5, "a").random(4).tolist() == rng(5, "a").random(4).tolist()
    assert rng(5, "a").random() != rng(5, "b").random()
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
