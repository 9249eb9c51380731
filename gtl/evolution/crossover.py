"""Crossover of two genotypes (an extension: no source on GTL mentions one)."""

from __future__ import annotations

import numpy as np

from gtl.genotype import ChannelMask, Genotype


def exchange_channels(first: Genotype, second: Genotype, rng: np.random.Generator) -> tuple[Genotype, Genotype]:
    """Two children (DEAP's contract) that keep what both parents keep and share out what only one of them keeps.

    Every channel kept by exactly one parent goes to one child or the other with equal chance; a child whose group
    would be empty takes its parent's.
    """
    one: dict[str, ChannelMask] = {}
    two: dict[str, ChannelMask] = {}
    for group, mask in first.items():
        a, b = mask.bits, second[group].bits
        side = rng.random(mask.size) < 0.5
        left, right = (a & b) | ((a ^ b) & side), (a & b) | ((a ^ b) & ~side)
        one[group] = ChannelMask.from_bits(left if left.any() else a)
        two[group] = ChannelMask.from_bits(right if right.any() else b)
    return Genotype(one), Genotype(two)
