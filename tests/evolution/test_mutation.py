"""Mutations: never an empty group, never over the budget, the parent untouched, and as often as the rates say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pico import ARCHS, GROUPS, random_genotype, within_binomial

from gtl.config import GeneSection, MutationSection
from gtl.evolution.mutation import Ranking, change_count, fit_budget, move_budget, mutate, swap
from gtl.genotype import ChannelMask, Genotype
from gtl.layout import ChannelLayout
from gtl.models import gene_layout

SEEDS = st.integers(0, 2**32)
STILL = {"add": 0.0, "drop": 0.0, "swap": 0.0, "move": 0.0}
FREE = GeneSection(budget=1.0, initial_share=(0.1, 1.0))
Operator = Callable[[Genotype, np.random.Generator], Genotype]


def uneven(arch: str = "vgg11", low: int = 3, high: int = 16) -> ChannelLayout:
    return gene_layout(arch, {group: low + (5 * i) % (high - low) for i, group in enumerate(GROUPS[arch])})


def ranking_of(layout: ChannelLayout, seed: int = 0) -> Ranking:
    draw = np.random.default_rng(seed)
    return {group: draw.permutation(width).astype(float) for group, width in layout.groups.items()}


def halves(layout: ChannelLayout) -> Genotype:
    return Genotype({group: ChannelMask(width, range(width // 2)) for group, width in layout.groups.items()})


@given(st.sampled_from(ARCHS), SEEDS, st.integers(1, 3), st.booleans(), st.floats(0.05, 1.0))
@settings(max_examples=150, deadline=None)
def test_children_keep_the_floor_and_the_budget(
    arch: str, seed: int, floor: int, ranked: bool, strength: float
) -> None:
    layout = uneven(arch)
    least = layout.circuit_share(dict.fromkeys(layout.groups, floor))
    budget = min(1.0, 1.2 * least + seed % 7 / 20)
    size = GeneSection(budget=budget, initial_share=(0.01, 0.01), min_channels=floor)
    rates = MutationSection(add=0.7, drop=0.7, swap=0.7, move=0.7, strength=strength)
    ranking = ranking_of(layout, seed) if ranked else None
    draw = np.random.default_rng(seed)
    child = Genotype({g: ChannelMask(w, range(floor)) for g, w in layout.groups.items()})
    for _ in range(5):
        (child,) = mutate(child, draw, layout=layout, rates=rates, size=size, ranking=ranking)
        layout.check(child)
        assert min(child.counts.values()) >= floor
        assert layout.circuit_share(child.counts) <= budget


@given(st.sampled_from(ARCHS), SEEDS, st.floats(0.05, 1.0), st.booleans())
@settings(max_examples=60, deadline=None)
def test_children_that_fill_leave_no_room_for_a_channel(arch: str, seed: int, budget: float, ranked: bool) -> None:
    layout = uneven(arch)
    budget = max(budget, layout.circuit_share(dict.fromkeys(layout.groups, 1)))
    size = GeneSection(budget=budget, initial_share=(0.01, 0.01))
    rates, ranking = MutationSection(fill=True), ranking_of(layout, seed) if ranked else None
    draw = np.random.default_rng(seed)
    parent = Genotype({g: ChannelMask(w, [int(draw.integers(w))]) for g, w in layout.groups.items()})
    (child,) = mutate(parent, draw, layout=layout, rates=rates, size=size, ranking=ranking)
    layout.check(child)
    counts = child.counts
    assert layout.circuit_share(counts) <= budget
    for group, width in layout.groups.items():
        assert counts[group] == width or layout.circuit_share({**counts, group: counts[group] + 1}) > budget


@given(st.sampled_from(ARCHS), SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_parent_over_the_budget_or_at_the_floor_gets_children_within(arch: str, seed: int) -> None:
    layout = uneven(arch)
    size = GeneSection(budget=0.3, initial_share=(0.1, 0.3))
    draw = np.random.default_rng(seed)
    tiny = Genotype({group: ChannelMask(width, [0]) for group, width in layout.groups.items()})
    for parent in (layout.full(), tiny, random_genotype(layout.groups, seed)):
        (child,) = mutate(parent, draw, layout=layout, rates=MutationSection(drop=1.0, strength=1.0), size=size)
        assert layout.circuit_share(child.counts) <= 0.3 and min(child.counts.values()) >= 1


@given(SEEDS, st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_same_generator_gives_the_same_child(seed: int, ranked: bool) -> None:
    layout = uneven()
    parent = random_genotype(layout.groups, seed, share=0.4)
    ranking = ranking_of(layout) if ranked else None
    before = parent.to_json(), None if ranking is None else {g: w.tolist() for g, w in ranking.items()}
    children = [
        mutate(
            parent, np.random.default_rng(number), layout=layout, rates=MutationSection(), size=FREE, ranking=ranking
        )
        for number in (seed, seed, *range(seed + 1, seed + 9))
    ]
    assert all(isinstance(child, tuple) and len(child) == 1 for child in children), "DEAP's contract"
    assert children[0] == children[1]
    assert len({child for (child,) in children}) > 1
    after = parent.to_json(), None if ranking is None else {g: w.tolist() for g, w in ranking.items()}
    assert after == before


def test_rates_are_kept() -> None:
    """What each rate alone does, counted over groups and children; 5 standard deviations of the binomial."""
    layout, trials = uneven(low=8, high=16), 400
    parent = halves(layout)
    groups = trials * len(layout.groups)
    for rate in (0.05, 0.3):
        seen = {}
        for name in ("add", "drop", "swap"):
            rates = MutationSection(**{**STILL, name: rate})
            gained = lost = moved = 0
            for number in range(trials):
                (child,) = mutate(parent, np.random.default_rng(number), layout=layout, rates=rates, size=FREE)
                for group, mask in child.items():
                    change = len(mask) - len(parent[group])
                    gained += change > 0
                    lost += change < 0
                    moved += change == 0 and mask != parent[group]
            seen[name] = (gained, lost, moved)
        assert seen["add"][1:] == (0, 0) and within_binomial(seen["add"][0], groups, rate)
        assert seen["drop"][::2] == (0, 0) and within_binomial(seen["drop"][1], groups, rate)
        assert seen["swap"][:2] == (0, 0) and within_binomial(seen["swap"][2], groups, rate)
        rates = MutationSection(**{**STILL, "move": rate})
        children = [
            mutate(parent, np.random.default_rng(n), layout=layout, rates=rates, size=FREE)[0] for n in range(trials)
        ]
        assert within_binomial(sum(child != parent for child in children), trials, rate)


def test_gains_and_losses_are_drawn_apart() -> None:
    """With one channel each, a group grows when it gains and does not lose: rate * (1 - rate); shrinks as often."""
    layout, rates = uneven(low=8, high=16), MutationSection(**{**STILL, "add": 0.3, "drop": 0.3}, strength=0.01)
    parent, change = halves(layout), []
    for number in range(300):
        (child,) = mutate(parent, np.random.default_rng(number), layout=layout, rates=rates, size=FREE)
        change += [len(child[group]) - len(parent[group]) for group in layout.groups]
    assert set(change) == {-1, 0, 1}
    assert all(within_binomial(change.count(sign), len(change), 0.3 * 0.7) for sign in (-1, 1))


def test_rates_of_zero_change_nothing_and_of_one_everything() -> None:
    layout = uneven(low=8, high=16)
    parent = halves(layout)
    for number in range(20):
        draw = np.random.default_rng(number)
        assert mutate(parent, draw, layout=layout, rates=MutationSection(**STILL), size=FREE) == (parent,)
        rates = MutationSection(**{**STILL, "add": 1.0})
        (child,) = mutate(parent, draw, layout=layout, rates=rates, size=FREE)
        assert all(len(child[group]) > len(parent[group]) for group in layout.groups)


@given(SEEDS, st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_strength_bounds_what_one_mutation_touches(seed: int, strength: float) -> None:
    layout = uneven(low=8, high=16)
    parent = random_genotype(layout.groups, seed)
    for name in ("add", "drop", "swap"):
        rates = MutationSection(**{**STILL, name: 1.0}, strength=strength)
        (child,) = mutate(parent, np.random.default_rng(seed), layout=layout, rates=rates, size=FREE)
        for group, mask in child.items():
            most = max(1, round(strength * len(parent[group])))
            changed = int((mask.bits != parent[group].bits).sum())
            assert changed <= (2 * most if name == "swap" else most)


@given(st.sampled_from(ARCHS), SEEDS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_moved_budget_keeps_the_size(arch: str, seed: int, ranked: bool) -> None:
    """Never larger; smaller by less than one more channel of the taker would cost, unless the taker is whole."""
    layout = uneven(arch, low=4, high=20)
    parent = random_genotype(layout.groups, seed, share=0.5)
    ranking = ranking_of(layout) if ranked else None
    draw = np.random.default_rng(seed)
    child = move_budget(parent, draw, layout=layout, rates=MutationSection(), size=FREE, ranking=ranking)
    before, after = layout.circuit_parameters(parent.counts), layout.circuit_parameters(child.counts)
    changed = {
        group: len(child[group]) - len(parent[group]) for group in layout.groups if child[group] != parent[group]
    }
    givers = [group for group, change in changed.items() if change < 0]
    takers = [group for group, change in changed.items() if change > 0]
    assert len(givers) == 1 and len(takers) <= 1 and len(changed) == len(givers) + len(takers)
    assert after <= before
    for group in takers:
        if len(child[group]) < layout.groups[group]:
            one_more = layout.circuit_parameters({**child.counts, group: len(child[group]) + 1})
            assert one_more > before
    for group in givers:
        assert set(child[group].kept.tolist()) < set(parent[group].kept.tolist())


def test_moving_budget_reaches_every_pair_of_groups() -> None:
    layout = uneven(low=8, high=16)
    parent, pairs = halves(layout), set()
    for number in range(800):
        child = move_budget(parent, np.random.default_rng(number), layout=layout, rates=MutationSection(), size=FREE)
        change = {group: len(child[group]) - len(parent[group]) for group in layout.groups}
        taker = [group for group in change if change[group] > 0]
        pairs.add((min(change, key=lambda group: change[group]), *taker))
    assert {pair[0] for pair in pairs} == {pair[1] for pair in pairs if len(pair) == 2} == set(layout.groups)


# --- the single operators ------------------------------------------------------------------------------------------


def test_change_count_stops_at_the_group_and_at_the_floor() -> None:
    genotype = Genotype({"a": ChannelMask(6, [1, 2, 3]), "b": ChannelMask(2, [0])})
    size = GeneSection(min_channels=2)
    draw = np.random.default_rng(0)
    assert change_count(genotype, "a", 99, draw, size)["a"] == ChannelMask.full(6)
    lost = change_count(genotype, "a", -99, draw, size)
    assert len(lost["a"]) == 2 and set(lost["a"].kept) < {1, 2, 3} and lost["b"] is genotype["b"]
    assert change_count(genotype, "b", -1, draw, size) == genotype, "below the floor already: nothing more goes"
    assert change_count(genotype, "a", 0, draw, size) == genotype
    assert set(change_count(genotype, "a", 2, draw, size)["a"].kept) > {1, 2, 3}


def test_swap_keeps_the_count() -> None:
    genotype = Genotype({"a": ChannelMask(6, [1, 2, 3, 4]), "full": ChannelMask.full(3)})
    for number in range(30):
        draw = np.random.default_rng(number)
        swapped = swap(genotype, "a", 99, draw)["a"]
        assert len(swapped) == 4 and {0, 5} <= set(swapped.kept.tolist()), "as many as there are dropped ones"
        assert swap(genotype, "full", 2, draw) == genotype


def test_with_a_ranking_the_best_are_gained_and_the_worst_lost() -> None:
    genotype = Genotype({"a": ChannelMask(12, range(0, 12, 2))})
    ranking = {"a": np.array([5.0, 1, 7, 9, 0, 9, 2, 0, 8, 3, 6, 4])}
    draw, size = np.random.default_rng(0), GeneSection(min_channels=1)
    gained = change_count(genotype, "a", 3, draw, size, ranking)["a"]
    assert np.flatnonzero(gained.bits & ~genotype["a"].bits).tolist() == [3, 5, 11]
    lost = change_count(genotype, "a", -3, draw, size, ranking)["a"]
    assert np.flatnonzero(~lost.bits & genotype["a"].bits).tolist() == [0, 4, 6]


def test_without_a_ranking_every_channel_has_an_equal_chance() -> None:
    genotype = Genotype({"a": ChannelMask(12, range(0, 12, 2))})
    operators: dict[str, Operator] = {
        "gain": lambda g, r: change_count(g, "a", 2, r, GeneSection()),
        "lose": lambda g, r: change_count(g, "a", -2, r, GeneSection()),
        "swap": lambda g, r: swap(g, "a", 2, r),
    }
    for name, operate in operators.items():
        changed = np.zeros(12, dtype=int)
        for number in range(600):
            changed += operate(genotype, np.random.default_rng(number))["a"].bits != genotype["a"].bits
        touched = [i for i in range(12) if (i % 2 == 1 and name != "lose") or (i % 2 == 0 and name != "gain")]
        assert all(within_binomial(int(changed[i]), 600, 2 / 6) for i in touched)
        assert changed.sum() == 600 * 2 * (2 if name == "swap" else 1)


def test_fit_budget_only_drops_and_only_as_needed() -> None:
    layout = uneven(low=4, high=20)
    size = GeneSection(budget=0.2, initial_share=(0.1, 0.2))
    for number in range(30):
        draw = np.random.default_rng(number)
        parent = random_genotype(layout.groups, number, share=0.8)
        child = fit_budget(parent, draw, layout=layout, size=size)
        assert 0.1 < layout.circuit_share(child.counts) <= 0.2
        assert all(not (child[group].bits & ~parent[group].bits).any() for group in layout.groups)
        assert fit_budget(child, draw, layout=layout, size=size) is child, "within the budget: nothing to do"


def test_an_impossible_budget_is_an_error_and_not_a_loop() -> None:
    layout = gene_layout("vgg11", dict.fromkeys(GROUPS["vgg11"], 4))
    size = GeneSection(budget=0.2, initial_share=(0.1, 0.2), min_channels=3)
    with pytest.raises(ValueError, match=r"exceeds the budget of 0\.2"):
        fit_budget(layout.full(), np.random.default_rng(0), layout=layout, size=size)
