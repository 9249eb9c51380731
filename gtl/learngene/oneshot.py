"""One-shot genes: channels of one trained network chosen by a score, without evolution: founders, and opponents."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from gtl.evolution.founding import top_channels
from gtl.genotype import Genotype
from gtl.layout import ChannelLayout
from gtl.seeds import rng

METHODS = ("l1", "bn", "random")
Scores = dict[str, npt.NDArray[np.float64]]


def channel_scores(state: Mapping[str, torch.Tensor], layout: ChannelLayout, method: str, seed: int = 0) -> Scores:
    """Worth of every channel of a trained network, by group.

    Args:
        state: state dict, or the tensors of its full genotype.
        method: ``l1``: mean absolute weight of the channel's kernels (Li et al. 2017); ``bn``: absolute norm scale
            (Liu et al. 2017, network slimming); ``random``: seeded uniform draw.
    """
    scores: Scores = {}
    draw = rng(seed, "channel scores", method)
    for group, width in layout.groups.items():
        total = np.zeros(width)
        if method == "random":
            total = draw.random(width)
        elif method == "bn":
            for norm in layout.norms[group]:
                total += state[f"{norm}.weight"].detach().abs().double().cpu().numpy()
        elif method == "l1":
            for name in layout.convolutions:
                if layout.owner(name) == group:
                    total += state[name].detach().abs().double().mean(dim=(1, 2, 3)).cpu().numpy()
        else:
            raise ValueError(f"unknown channel score {method!r}; known are {', '.join(METHODS)}")
        scores[group] = total
    return scores


def one_shot_genotype(
    state: Mapping[str, torch.Tensor], layout: ChannelLayout, counts: Mapping[str, int], method: str, seed: int = 0
) -> Genotype:
    """The best-scored channels of a trained network, this many per group."""
    return top_channels(counts, channel_scores(state, layout, method, seed))
