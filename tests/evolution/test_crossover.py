"""Crossover: what both keep stays, what one keeps is shared out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pico import GROUPS, random_genotype, within_binomial

from gtl.evolution.crossover import exchange_channels
from gtl.genotype import ChannelMask, Genotype

SIZES = dict.fromkeys(GROUPS["vgg11"], 6)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_children_share_out_what_only_one_parent_keeps(seed: int) -> None:
    parents = random_genotype(SIZES, seed), random_genotype(SIZES, seed + 1)
    before = [parent.to_json() for parent in parents]
    children = exchange_channels(*parents, np.random.default_rng(seed))
    assert isinstance(children, tuple) and len(children) == 2, "DEAP's contract"
    assert children == exchange_channels(*parents, np.random.default_rng(seed))
    assert [parent.to_json() for parent in parents] == before
    for group in SIZES:
        a, b, one, two = (genotype[group].bits for genotype in (*parents, *children))
        assert one.any() and two.any()
        for child in (one, two):
            assert (child >= (a & b)).all() and (child <= (a | b)).all()
        if not np.array_equal(one, a) and not np.array_equal(two, b):  # no child was saved from an empty group
            assert np.array_equal(one ^ two, a ^ b), "each channel of one parent goes to exactly one child"


def test_every_exclusive_channel_has_an_equal_chance() -> None:
    first = Genotype({"a": ChannelMask(40, range(20))})
    second = Genotype({"a": ChannelMask(40, range(10, 30))})
    counts = np.zeros(40, dtype=int)
    for number in range(400):
        one, _ = exchange_channels(first, second, np.random.default_rng(number))
        counts += one["a"].bits
    assert (counts[10:20] == 400).all() and (counts[30:] == 0).all()
    assert all(within_binomial(int(counts[i]), 400, 0.5) for i in (*range(10), *range(20, 30)))


def test_a_child_is_never_empty() -> None:
    first, second = Genotype({"a": ChannelMask(2, [0])}), Genotype({"a": ChannelMask(2, [1])})
    seen = set()
    for number in range(60):
        one, two = exchange_channels(first, second, np.random.default_rng(number))
        assert len(one["a"]) >= 1 and len(two["a"]) >= 1
        seen.add((tuple(one["a"].kept.tolist()), tuple(two["a"].kept.tolist())))
    assert len(seen) == 4


def test_equal_parents_have_equal_children() -> None:
    parent = random_genotype(SIZES, 3)
    assert exchange_channels(parent, parent, np.random.default_rng(0)) == (parent, parent)
