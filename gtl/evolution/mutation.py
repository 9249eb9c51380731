"""Mutations of a genotype: add, drop and swap channels within a group, move budget between groups.

Every operator returns a new genotype (genotypes are immutable) that keeps at least `min_channels` a group and stays
within the parameter budget. The order of groups is fixed, so one generator gives one child.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from gtl.config import GeneSection, MutationSection
from gtl.genotype import ChannelMask, Genotype
from gtl.layout import ChannelLayout

Ranking = Mapping[str, npt.NDArray[np.float64]]


def mutate(
    genotype: Genotype,
    rng: np.random.Generator,
    *,
    layout: ChannelLayout,
    rates: MutationSection,
    size: GeneSection,
    ranking: Ranking | None = None,
) -> tuple[Genotype]:
    """A mutated genotype, as a 1-tuple (DEAP's contract).

    Args:
        genotype: the parent's channels; not modified.
        layout: of the hosts; counts parameters.
        ranking: group -> worth of each channel. With it, the best channels are gained and the worst lost.
    """
    child = genotype
    for group in layout.groups:
        draws = rng.random(3)
        if draws[0] < rates.add:
            child = change_count(child, group, _portion(child, group, rates, rng), rng, size, ranking)
        if draws[1] < rates.drop:
            child = change_count(child, group, -_portion(child, group, rates, rng), rng, size, ranking)
        if draws[2] < rates.swap:
            child = swap(child, group, _portion(child, group, rates, rng), rng)
    if rng.random() < rates.move and len(layout.groups) > 1:
        child = move_budget(child, rng, layout=layout, rates=rates, size=size, ranking=ranking)
    child = fit_budget(child, rng, layout=layout, size=size, ranking=ranking)
    if rates.fill:
        child = fill_budget(child, rng, layout=layout, size=size, ranking=ranking)
    return (child,)


def change_count(
    genotype: Genotype,
    group: str,
    change: int,
    rng: np.random.Generator,
    size: GeneSection,
    ranking: Ranking | None = None,
) -> Genotype:
    """Gain (`change` > 0) or lose channels of one group, as far as the group and its floor allow."""
    mask = genotype[group]
    bits = mask.bits.copy()
    if change > 0:
        bits[_choose(mask.dropped, min(change, mask.size - len(mask)), rng, _worth(ranking, group, +1))] = True
    else:
        floor = min(size.min_channels, mask.size)
        bits[_choose(mask.kept, max(0, min(-change, len(mask) - floor)), rng, _worth(ranking, group, -1))] = False
    return genotype.replace(**{group: ChannelMask.from_bits(bits)})


def swap(genotype: Genotype, group: str, count: int, rng: np.random.Generator) -> Genotype:
    """Exchange up to `count` kept channels of one group for random dropped ones; the group's count stays."""
    mask = genotype[group]
    count = min(count, len(mask), mask.size - len(mask))
    bits = mask.bits.copy()
    bits[rng.choice(mask.kept, count, replace=False)] = False
    bits[rng.choice(mask.dropped, count, replace=False)] = True
    return genotype.replace(**{group: ChannelMask.from_bits(bits)})


def move_budget(
    genotype: Genotype,
    rng: np.random.Generator,
    *,
    layout: ChannelLayout,
    rates: MutationSection,
    size: GeneSection,
    ranking: Ranking | None = None,
) -> Genotype:
    """Take channels from one group and spend their parameters on another.

    The giver loses up to `rates.strength` of its channels; the taker gains channels until the gene is as large as
    before, or the taker is whole.
    """
    groups = list(layout.groups)
    giver, taker = (groups[i] for i in rng.choice(len(groups), 2, replace=False))
    before = layout.circuit_parameters(genotype.counts)
    child = change_count(genotype, giver, -_portion(genotype, giver, rates, rng), rng, size, ranking)
    counts = child.counts
    room = genotype[taker].size - counts[taker]
    gained = _largest(lambda n: layout.circuit_parameters({**counts, taker: counts[taker] + n}) <= before, room)
    return change_count(child, taker, gained, rng, size, ranking)


def fit_budget(
    genotype: Genotype,
    rng: np.random.Generator,
    *,
    layout: ChannelLayout,
    size: GeneSection,
    ranking: Ranking | None = None,
) -> Genotype:
    """Drop channels, group after random group, until the gene is within the budget.

    Raises:
        ValueError: the floor of every group together exceeds the budget (refused earlier by the configuration check).
    """
    child = genotype
    limit = size.budget * layout.parameters
    while layout.circuit_parameters(child.counts) > limit:
        counts = child.counts
        able = [group for group in layout.groups if counts[group] > min(size.min_channels, layout.groups[group])]
        if not able:
            raise ValueError(f"a gene of {counts} channels exceeds the budget of {size.budget:.3g} of the parameters")
        group = able[rng.integers(len(able))]
        child = change_count(child, group, -max(1, counts[group] // 16), rng, size, ranking)
    return child


def fill_budget(
    genotype: Genotype,
    rng: np.random.Generator,
    *,
    layout: ChannelLayout,
    size: GeneSection,
    ranking: Ranking | None = None,
) -> Genotype:
    """Gain channels, group after random group, until not one more fits into the budget."""
    child = genotype
    limit = size.budget * layout.parameters

    def fits(group: str, more: int) -> bool:
        counts = child.counts
        return layout.circuit_parameters({**counts, group: counts[group] + more}) <= limit

    while able := [g for g, mask in child.items() if len(mask) < mask.size and fits(g, 1)]:
        group = able[rng.integers(len(able))]
        room = min(max(1, len(child[group]) // 16), child[group].size - len(child[group]))
        gained = _largest(partial(fits, group), room)
        child = change_count(child, group, gained, rng, size, ranking)
    return child


def _portion(genotype: Genotype, group: str, rates: MutationSection, rng: np.random.Generator) -> int:
    """How many channels one mutation touches: 1 up to `strength` of the kept ones."""
    return int(rng.integers(1, max(1, round(rates.strength * len(genotype[group]))) + 1))


def _worth(ranking: Ranking | None, group: str, sign: int) -> npt.NDArray[np.float64] | None:
    return None if ranking is None else sign * ranking[group]


def _choose(
    candidates: npt.NDArray[np.int64], count: int, rng: np.random.Generator, worth: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.int64]:
    """`count` of the candidates: the most worthy, or random ones where there is no ranking."""
    if worth is None or count == 0:
        return rng.choice(candidates, count, replace=False)
    order = np.argsort(-worth[candidates], kind="stable")
    return candidates[order[:count]]


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """Largest n in 0..limit with ``fits(n)``, for a predicate that only turns from True to False."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
