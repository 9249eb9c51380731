"""The first genotypes: a share per group, drawn under the budget, and channels by score."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np

from gtl.config import GeneSection
from gtl.evolution.mutation import Ranking
from gtl.genotype import ChannelMask, Genotype
from gtl.layout import ChannelLayout

ALLOCATIONS = ("uniform", "early", "level")
EVEN = "uniform"  # the way to choose channels that looks at none of them: `even_channels`
SMALLEST_SHARE = 0.05  # of a group's channels, before scaling to the drawn size


def draw_allocation(
    rng: np.random.Generator, layout: ChannelLayout, size: GeneSection, kind: str = "drawn"
) -> dict[str, int]:
    """Channels per group of a gene whose size is drawn from `size.initial_share`.

    Args:
        kind: ``drawn``: log-uniform shares per group, scaled to the size; otherwise a rule of `allocation`, which gives
            a gene of the band's upper end.
    """
    low, high = size.initial_share
    target = rng.uniform(low, high)
    if kind != "drawn":
        return allocation(layout, kind, high, size.min_channels)
    logs = rng.uniform(np.log(SMALLEST_SHARE), 0.0, len(layout.groups))
    shares = dict(zip(layout.groups, np.exp(logs).tolist(), strict=True))
    return scale_allocation(shares, layout, target, size.min_channels)


def scale_allocation(
    shares: Mapping[str, float], layout: ChannelLayout, target: float, floor: int = 1
) -> dict[str, int]:
    """Multiply the groups' relative shares by one factor, so that the circuit is the largest within `target`."""

    def counts(factor: float) -> dict[str, int]:
        return {g: max(min(floor, w), min(w, int(shares[g] * factor * w))) for g, w in layout.groups.items()}

    low, high = 0.0, 2.0 / min(shares.values())  # at half of it every group is whole
    within, above = counts(low), counts(high)
    if layout.circuit_share(above) <= target:
        return above
    for _ in range(50):
        if sum(above.values()) - sum(within.values()) <= 1:
            break  # nothing lies between
        middle = (low + high) / 2
        found = counts(middle)
        if layout.circuit_share(found) <= target:
            low, within = middle, found
        else:
            high, above = middle, found
    return within


def allocation(layout: ChannelLayout, kind: str, budget: float, floor: int = 1) -> dict[str, int]:
    """Channels per group of a gene of at most `budget` of the convolution parameters.

    Args:
        kind: ``uniform``: the same share of every group; ``early``: the first half of the groups whole, as far as the
            budget goes, the rest equal shares of what is left; ``level``: the same number of channels in every group, or
            all of it, and where not all can have one more, the deepest have.
    """
    groups = list(layout.groups)
    if kind == "uniform":
        shares = dict.fromkeys(groups, 1.0)
    elif kind == "early":
        shares = {group: 1e6 if i < len(groups) // 2 else 1.0 for i, group in enumerate(groups)}
        counts = scale_allocation(shares, layout, budget, floor)
        if all(counts[group] == layout.groups[group] for group in groups[: len(groups) // 2]):
            return counts
        widest = max(layout.groups.values())  # even the early half is over the budget: favour narrow groups
        shares = {group: (widest / layout.groups[group]) ** 2 for group in groups}
    elif kind == "level":
        return _level(layout, budget, floor)
    else:
        raise ValueError(f"unknown allocation {kind!r}; known are {', '.join(ALLOCATIONS)}")
    return scale_allocation(shares, layout, budget, floor)


def _level(layout: ChannelLayout, budget: float, floor: int) -> dict[str, int]:
    """The rule ``level`` of `allocation`."""

    def capped(channels: int) -> dict[str, int]:
        return {group: min(max(channels, floor), width) for group, width in layout.groups.items()}

    numbers = range(1, max(layout.groups.values()) + 1)
    found = capped(bisect_right(numbers, budget, key=lambda channels: layout.circuit_share(capped(channels))))
    for group, width in reversed(list(layout.groups.items())):
        more = {**found, group: min(found[group] + 1, width)}
        if layout.circuit_share(more) <= budget:
            found = more
    return found


def top_channels(counts: Mapping[str, int], ranking: Ranking) -> Genotype:
    """The genotype of the best-ranked channels of every group; ties go to the lower index."""
    return Genotype(
        {group: ChannelMask(len(ranking[group]), np.argsort(-ranking[group], kind="stable")[:count].tolist())
         for group, count in counts.items()}
    )  # fmt: skip


def even_channels(counts: Mapping[str, int], sizes: Mapping[str, int]) -> Genotype:
    """The genotype of evenly spaced channels of every group, whatever is in them: of n channels, ``floor(i n / k)``.

    This is Weight Selection's uniform selection (Xu et al. 2024, arXiv 2311.18823): every (n / k)-th where k divides n.
    """
    return Genotype(
        {group: ChannelMask(sizes[group], [i * sizes[group] // count for i in range(count)])
         for group, count in counts.items()}
    )  # fmt: skip
