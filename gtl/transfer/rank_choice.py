"""How many dimensions each layer of an InherNet keeps: by rank, by energy, or by a budget of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from gtl.errors import ConfigError
from gtl.transfer.low_rank import PrincipalAxes, inherited_parameters


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer that may become an inherited one.

    Attributes:
        name: in the network.
        inputs, outputs: of its weight as a matrix.
        bias: whether it has one.
        axes: of its weight, or of its activations.
        experts: that it would get.
        force: whether it becomes one also where that saves no parameters.
        mean: float64 ``(outputs,)``, what it gives on average, its bias aside, if its axes leave that out; else None.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool
    axes: PrincipalAxes
    experts: int
    force: bool
    mean: torch.Tensor | None = None

    @property
    def full_rank(self) -> int:
        """The largest rank: of outputs and inputs the fewer."""
        return min(self.inputs, self.outputs)

    @property
    def dense(self) -> int:
        """Parameters as it is."""
        return self.inputs * self.outputs + self.outputs * self.bias

    def stays_dense(self, rank: int) -> bool:
        """Whether a rank is not worth its parameters: it is the full one, or they are no fewer."""
        return not self.force and (rank >= self.full_rank or self._inherited(rank) >= self.dense)

    def parameters(self, rank: int) -> int:
        """Parameters at a rank, of the dense layer where it stays dense."""
        return self.dense if self.stays_dense(rank) else self._inherited(rank)

    def _inherited(self, rank: int) -> int:
        return inherited_parameters(self.inputs, self.outputs, rank, self.experts, bias=self.bias)


Ranks = dict[str, int]


def ranks_given(candidates: Sequence[Candidate], rank: int | Mapping[str, int]) -> Ranks:
    """The same rank everywhere, or each layer's own.

    With one rank for all, layers whose full rank is not above it stay dense, as in the published demo.

    Raises:
        ConfigError: a rank below 1 or over the layer's maximum (over that of all layers, if it is for all), or names that
            are not those of the layers.
    """
    maxima = {candidate.name: candidate.full_rank for candidate in candidates}
    if isinstance(rank, Mapping):
        if rank.keys() != maxima.keys():
            odd = sorted(rank.keys() ^ maxima.keys())
            raise ConfigError(f"rank: give one for each of {', '.join(maxima)}; wrong or missing: {', '.join(odd[:4])}")
        chosen = dict(rank)
    else:
        chosen = dict.fromkeys(maxima, rank)
    for name, value in chosen.items():
        if value < 1:
            raise ConfigError(f"rank {value} of {name}: a rank is at least 1")
    if isinstance(rank, int) and not any(candidate.force for candidate in candidates):
        largest = max(maxima, key=maxima.__getitem__)
        if rank > maxima[largest]:
            raise ConfigError(
                f"rank {rank} is over the maximum of every layer; the largest is {maxima[largest]}, of {largest}"
            )
        return chosen
    for name, value in chosen.items():
        if value > maxima[name]:
            raise ConfigError(f"rank {value} is over the maximum of {name}, which is {maxima[name]}; give at most that")
    return chosen


def ranks_by_energy(candidates: Sequence[Candidate], energy: float) -> Ranks:
    """The least ranks that keep this share of every layer's energy; a share of 1 is the full rank."""
    return {candidate.name: _rank_keeping(candidate.axes.kept(), energy) for candidate in candidates}


def ranks_by_budget(candidates: Sequence[Candidate], limit: int) -> Ranks:
    """Ranks with at most `limit` parameters in all these layers, as many as fit.

    The largest share of energy that can be kept in every layer alike, and then, one dimension at a time, whatever still
    fits, the layer that keeps least first.

    Args:
        limit: not less than rank 1 in every layer has.
    """
    kept = {candidate.name: candidate.axes.kept() for candidate in candidates}

    def cost(ranks: Ranks) -> int:
        return sum(candidate.parameters(ranks[candidate.name]) for candidate in candidates)

    def keeping(energy: float) -> Ranks:
        return {name: _rank_keeping(shares, energy) for name, shares in kept.items()}

    thresholds = sorted(set(torch.cat(list(kept.values())).tolist()))
    low, high = -1, len(thresholds)  # thresholds[low] fits, thresholds[high] does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(keeping(thresholds[middle])) <= limit else (low, middle)
    ranks = keeping(thresholds[low]) if low >= 0 else dict.fromkeys(kept, 1)
    return _filled(candidates, ranks, limit - cost(ranks))


def _filled(candidates: Sequence[Candidate], ranks: Ranks, left: int) -> Ranks:
    """The ranks, raised by one here and there as long as `left` parameters suffice."""
    ranks = dict(ranks)
    open_ = {c.name: c for c in candidates if not c.stays_dense(ranks[c.name]) and ranks[c.name] < c.full_rank}
    while open_:
        name = min(open_, key=lambda name: open_[name].axes.keeps(ranks[name]))
        candidate = open_[name]
        step = candidate.parameters(ranks[name] + 1) - candidate.parameters(ranks[name])
        if step > left:
            del open_[name]
            continue
        ranks[name] += 1
        left -= step
        if candidate.stays_dense(ranks[name]) or ranks[name] == candidate.full_rank:
            del open_[name]
    return ranks


def _rank_keeping(kept: torch.Tensor, energy: float) -> int:
    if energy >= 1.0:
        return len(kept)
    return min(len(kept), int((kept < energy).sum()) + 1)
