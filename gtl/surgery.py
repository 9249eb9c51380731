"""Channel surgery: gather a genotype's circuit out of a network, scatter it into another, mask it in place.

Pure functions on state dicts, driven by a ChannelLayout. Nothing else in gtl cuts or pastes channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
import torch

from gtl.errors import GeneMismatchError
from gtl.genotype import Genotype
from gtl.layout import ChannelLayout

GeneTensors = dict[str, torch.Tensor]


def axis_index(channels: torch.Tensor, stride: int) -> torch.Tensor:
    """Positions along an axis of these channels, where every channel owns `stride` consecutive entries."""
    if stride == 1:
        return channels
    return (channels[:, None] * stride + torch.arange(stride)).flatten()


def kept_indices(layout: ChannelLayout, genotype: Genotype, tensor: str) -> dict[int, torch.Tensor]:
    """Axis -> kept positions (int64) of `tensor` under `genotype`."""
    return {
        axis: axis_index(torch.from_numpy(genotype[group].kept), stride)
        for axis, (group, stride) in layout.axes[tensor].items()
    }


def gather(state: Mapping[str, torch.Tensor], layout: ChannelLayout, genotype: Genotype) -> GeneTensors:
    """The circuit of `genotype`: ``W[S, S_prev]`` of every inherited tensor (methods: ECO's "complete circuit").

    Args:
        state: state dict of a network with this layout (head and counters are ignored).

    Returns:
        New tensors, named as in the state dict; they are the state dict of the thin network, head excluded.
    """
    gene: GeneTensors = {}
    for name in layout.inherited:
        tensor = state[name].detach()
        for axis, index in kept_indices(layout, genotype, name).items():
            tensor = tensor.index_select(axis, index.to(tensor.device))
        gene[name] = tensor.contiguous().clone()
    return gene


def scatter(
    gene: Mapping[str, torch.Tensor],
    genotype: Genotype,
    state: Mapping[str, torch.Tensor],
    layout: ChannelLayout,
) -> dict[str, torch.Tensor]:
    """Insert a gene into a network of the same family that is as wide or wider, at the same channel indices.

    ``W[S, S_prev] = gene``, ``W[S, not S_prev] = 0`` (the gene's channels read only the gene), the rest untouched.

    Args:
        gene: tensors of `genotype`, as `gather` returns them.
        state: state dict of the receiving network; not modified.
        layout: layout of the receiving network; its groups may be wider than the genotype's.

    Raises:
        GeneMismatchError: other groups, a group that is too narrow, or a tensor of the wrong shape; names it.
    """
    check_fits(genotype, layout)
    result = {name: tensor.detach().clone() for name, tensor in state.items()}
    for name in layout.inherited:
        index = kept_indices(layout, genotype, name)
        expected = tuple(len(index[a]) if a in index else length for a, length in enumerate(layout.shapes[name]))
        if tuple(gene[name].shape) != expected:
            raise GeneMismatchError(f"gene tensor {name} has shape {tuple(gene[name].shape)}, expected {expected}")
        target = result[name]
        rows = target.index_select(0, index[0].to(target.device))
        rows.zero_()
        if 1 in index:
            rows.index_copy_(1, index[1].to(target.device), gene[name].to(rows))
        else:
            rows.copy_(gene[name])
        target.index_copy_(0, index[0].to(target.device), rows)
    return result


def mask(state: Mapping[str, torch.Tensor], layout: ChannelLayout, genotype: Genotype) -> dict[str, torch.Tensor]:
    """The full network with every dropped channel silenced after its normalisation (eval mode).

    Scale and shift of a dropped channel's norms become zero, so its activation is exactly zero and the masked network
    computes what the gathered thin network computes. Masking before the norm would let the norm's shift through.
    """
    layout.check(genotype)
    result = {name: tensor.detach().clone() for name, tensor in state.items()}
    for group, norms in layout.norms.items():
        dropped = torch.from_numpy(genotype[group].dropped)
        for norm in norms:
            for kind in ("weight", "bias"):
                result[f"{norm}.{kind}"][dropped] = 0.0
    return result


def gene_region(layout: ChannelLayout, genotype: Genotype, tensor: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two boolean tensors of the full tensor's shape: where the gene's own weights lie, and where its zero block lies."""
    index = kept_indices(layout, genotype, tensor)
    shape = layout.shapes[tensor]
    rows = torch.zeros(shape, dtype=torch.bool).index_fill_(0, index[0], True)
    if 1 not in index:
        return rows, torch.zeros(shape, dtype=torch.bool)
    columns = torch.zeros(shape, dtype=torch.bool).index_fill_(1, index[1], True)
    return rows & columns, rows & ~columns


def combine(parents: list[tuple[Genotype, GeneTensors]], layout: ChannelLayout) -> tuple[Genotype, GeneTensors]:
    """One gene from several: averaged where they share a genotype, otherwise channel by channel.

    Parents of one genotype are averaged tensor by tensor. Of different genotypes, the union is laid out: connections
    inside the first parent are the first parent's, connections only a later parent has are that parent's, and
    connections between channels that no parent has together are zero.

    Returns:
        The genotype (the union) and its tensors.
    """
    first, tensors = parents[0]
    if all(genotype == first for genotype, _ in parents):
        count = len(parents)
        return first, {name: torch.stack([gene[name] for _, gene in parents]).sum(0) / count for name in tensors}
    union = reduce(Genotype.union, (genotype for genotype, _ in parents))
    full = {name: tensors[name].new_zeros(layout.shapes[name]) for name in layout.inherited}
    for genotype, gene in reversed(parents):  # earlier parents overwrite later ones
        for name in layout.inherited:
            _write_block(full[name], kept_indices(layout, genotype, name), gene[name])
    return union, gather(full, layout, union)


def average(
    parents: Sequence[tuple[Genotype, Mapping[str, torch.Tensor]]],
    kept: Genotype,
    layout_of: Callable[[Mapping[str, int]], ChannelLayout],
) -> GeneTensors:
    """The circuit of `kept`, every connection the mean of those parents' that have it, and zero where none has it.

    Means are taken in double precision: two parents may come in either order, and equal ones give themselves.

    Args:
        parents: genotypes of one network and their tensors, as `gather` returns them.
        kept: the result's channels; each parent has some of every group.
        layout_of: the family's layout at given widths. Nothing is laid out at the ancestor's width.
    """
    frame = layout_of(kept.counts)
    sums = {name: torch.zeros(frame.shapes[name], dtype=torch.float64) for name in frame.inherited}
    counts = {name: torch.zeros(frame.shapes[name], dtype=torch.float64) for name in frame.inherited}
    for genotype, gene in parents:
        common = genotype.intersection(kept)
        part = gather(gene, layout_of(genotype.counts), common.within(genotype))
        for name, tensor in part.items():
            own, _ = gene_region(frame, common.within(kept), name)
            sums[name][own] += tensor.double().flatten()
            counts[name][own] += 1
    return {name: (sums[name] / counts[name].clamp_min(1)).to(parents[0][1][name].dtype) for name in frame.inherited}


def shared_part(
    gene: Mapping[str, torch.Tensor], layout: ChannelLayout, genotype: Genotype, other: Genotype, tensor: str
) -> torch.Tensor:
    """What a gene's `tensor` has on the channels that another genotype of the network keeps, too; perhaps empty.

    Args:
        gene: tensors of `genotype`.
        layout: of the family, at any widths.
    """
    part = gene[tensor]
    for axis, (group, stride) in layout.axes[tensor].items():
        mine = torch.from_numpy(np.flatnonzero(other[group].bits[genotype[group].kept]))
        part = part.index_select(axis, axis_index(mine, stride))
    return part


def check_fits(genotype: Genotype, layout: ChannelLayout) -> None:
    """Raise GeneMismatchError, naming the group, unless the layout has the genotype's groups, as wide or wider."""
    if list(genotype) != list(layout.groups):
        raise GeneMismatchError(
            f"the gene has the channel groups {list(genotype)}, the network has {list(layout.groups)}: "
            "another architecture. Use a network of the gene's family."
        )
    for group, chosen in genotype.items():
        highest = int(chosen.kept[-1])
        if highest >= layout.groups[group]:
            raise GeneMismatchError(
                f"group {group}: the gene keeps channel {highest} of an ancestor of {chosen.size} channels, the network "
                f"has {layout.groups[group]}. Use a network of at least {highest + 1} channels there."
            )


def _write_block(target: torch.Tensor, index: dict[int, torch.Tensor], block: torch.Tensor) -> None:
    if 1 in index:
        target[index[0][:, None], index[1][None, :]] = block
    else:
        target[index[0]] = block


def update_scale(
    layout: ChannelLayout, genotype: Genotype, *, gene_update: float, masked: bool
) -> Mapping[str, torch.Tensor] | None:
    """Factors on weight updates that hold the gene back (`gene_update`) or keep its zero block zero (`masked`)."""
    if gene_update == 1.0 and not masked:
        return None
    scale = {}
    for name in layout.inherited:
        if name.endswith(("running_mean", "running_var")):
            continue
        gene, zeros = gene_region(layout, genotype, name)
        factor = torch.ones(layout.shapes[name])
        factor[gene] = gene_update
        if masked:
            factor[zeros] = 0.0
        scale[name] = factor
    return scale
