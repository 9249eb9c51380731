"""Founders: a size from the band, a share of its own for every group, the best-ranked channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pico import ARCHS, GROUPS

from gtl.config import GeneSection
from gtl.evolution.founding import allocation, draw_allocation, scale_allocation, top_channels
from gtl.layout import ChannelLayout
from gtl.models import gene_layout, spec_of

SIZE = GeneSection(budget=0.2, initial_share=(0.05, 0.2))


def quarter(arch: str) -> ChannelLayout:
    return gene_layout(arch, dict(spec_of(arch, num_classes=1, width=0.25).widths))


@pytest.mark.parametrize("arch", ARCHS)
def test_founders_lie_in_the_band_and_differ_per_group(arch: str) -> None:
    layout = quarter(arch)
    drawn = [draw_allocation(np.random.default_rng(n), layout, SIZE) for n in range(100)]
    sizes = np.array([layout.circuit_share(counts) for counts in drawn])
    assert (sizes <= 0.2).all() and (sizes > 0.045).all(), "whole channels may fall a little short of the drawn size"
    assert sizes.min() < 0.08 and sizes.max() > 0.17, "the whole band is used"
    shares = np.array([[counts[group] / width for group, width in layout.groups.items()] for counts in drawn])
    assert (shares.std(axis=1) > 0.05).all(), "a share per group, not one for all"
    assert (shares.std(axis=0) > 0.1).all(), "every group is rich in one founder and poor in another"
    assert all(1 <= counts[group] <= width for counts in drawn for group, width in layout.groups.items())
    assert drawn[7] == draw_allocation(np.random.default_rng(7), layout, SIZE)


@given(st.sampled_from(ARCHS), st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_founders_keep_the_floor(arch: str, seed: int, floor: int) -> None:
    layout = gene_layout(arch, {group: 3 + seed % 7 + i for i, group in enumerate(GROUPS[arch])})
    size = GeneSection(budget=0.5, initial_share=(0.3, 0.5), min_channels=floor)
    least = layout.circuit_share({g: min(floor, w) for g, w in layout.groups.items()})
    counts = draw_allocation(np.random.default_rng(seed), layout, size)
    assert all(min(floor, width) <= counts[group] <= width for group, width in layout.groups.items())
    assert layout.circuit_share(counts) <= max(0.5, least)


@given(st.sampled_from(ARCHS), st.integers(0, 2**32), st.floats(0.02, 1.0))
@settings(max_examples=60, deadline=None)
def test_scaling_is_the_largest_within_the_target(arch: str, seed: int, target: float) -> None:
    layout = quarter(arch)
    draw = np.random.default_rng(seed)
    shares = {group: float(draw.uniform(0.05, 1)) for group in layout.groups}
    counts = scale_allocation(shares, layout, target)
    assert layout.circuit_share(counts) <= target
    growing = {g for g, w in layout.groups.items() if counts[g] < w}
    if growing:  # every group that is next in line would break the target
        nearest = min(((counts[g] + 1) / (shares[g] * layout.groups[g]), g) for g in growing)[1]
        assert layout.circuit_share({**counts, nearest: counts[nearest] + 1}) > target


@given(st.sampled_from(ARCHS), st.floats(0.02, 1.0), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_level_is_one_number_of_channels_and_leaves_room_for_none(arch: str, budget: float, floor: int) -> None:
    layout = quarter(arch)
    counts = allocation(layout, "level", budget, floor)
    assert layout.circuit_share(counts) <= max(budget, layout.circuit_share(dict.fromkeys(layout.groups, floor)))
    cut = {group: count for group, count in counts.items() if count < layout.groups[group]}
    if not cut:
        return
    least, most = min(cut.values()), max(cut.values())
    assert floor <= least and most <= least + 1
    assert all(layout.groups[group] <= least + 1 for group in counts.keys() - cut.keys()), (
        "whole: those that have no more"
    )
    for group in (group for group, count in cut.items() if count == least):
        assert layout.circuit_share({**counts, group: least + 1}) > budget


def test_equal_shares_and_a_target_of_one_keep_everything() -> None:
    layout = quarter("vgg11")
    for share in (0.07, 0.3, 0.5, 1.0):
        assert scale_allocation(dict.fromkeys(layout.groups, share), layout, 1.0) == dict(layout.groups)
    assert scale_allocation(dict.fromkeys(layout.groups, 0.5), layout, 0.0) == dict.fromkeys(layout.groups, 1)


def test_top_channels_are_the_best_ties_to_the_lower_index() -> None:
    ranking = {"a": np.array([0.1, 0.9, 0.5, 0.9]), "b": np.array([2.0, 2.0, 2.0])}
    genotype = top_channels({"a": 2, "b": 2}, ranking)
    assert genotype["a"].kept.tolist() == [1, 3] and genotype["b"].kept.tolist() == [0, 1]
    assert top_channels({"a": 3, "b": 1}, ranking)["a"].kept.tolist() == [1, 2, 3]
    assert top_channels({"a": 4, "b": 3}, ranking).counts == {"a": 4, "b": 3}
