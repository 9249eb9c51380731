"""ChannelLayout: the table that says which axis of which tensor belongs to which channel group.

Torch-free, so that genotypes can be varied and counted where torch is not installed. Couplings are declared, not
traced: everything that meets at an addition shares one group, and the table is checked against the real network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from gtl.genotype import ChannelMask, Genotype


@dataclass(frozen=True)
class Slot:
    """One axis of one tensor that a channel group runs along.

    Attributes:
        tensor: name in the network's state dict.
        axis: which axis of that tensor.
        stride: entries per channel along the axis (H*W where a flatten comes between, otherwise 1).
    """

    tensor: str
    axis: int
    stride: int = 1


@dataclass(frozen=True)
class ChannelLayout:
    """Search space of genotypes for one network: its groups, and where each group shows in the tensors.

    Attributes:
        groups: group name -> number of channels, in forward order.
        slots: group name -> the axes it runs along. Axis 0 of a convolution is its output side.
        shapes: tensor name -> full shape, for every tensor of the state dict.
        head: tensors of the classifier: they read a group but are never inherited.
        norms: prefixes of the normalisation layers ("<prefix>.weight", ".bias", ".running_mean", ".running_var").
    """

    groups: Mapping[str, int]
    slots: Mapping[str, tuple[Slot, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    head: frozenset[str]
    norms: Mapping[str, tuple[str, ...]]

    @cached_property
    def axes(self) -> dict[str, dict[int, tuple[str, int]]]:
        """Tensor name -> {axis: (group, stride)}: the same table, looked up by tensor."""
        table: dict[str, dict[int, tuple[str, int]]] = {}
        for group, slots in self.slots.items():
            for slot in slots:
                axes = table.setdefault(slot.tensor, {})
                if slot.axis in axes:
                    raise ValueError(
                        f"axis {slot.axis} of {slot.tensor} is in two groups: {axes[slot.axis][0]}, {group}"
                    )
                axes[slot.axis] = (group, slot.stride)
        return table

    @cached_property
    def inherited(self) -> tuple[str, ...]:
        """Tensors that a gene carries: every tensor with a channel axis except the head's, in declared order."""
        return tuple(name for name in self.shapes if name in self.axes and name not in self.head)

    @cached_property
    def convolutions(self) -> tuple[str, ...]:
        """The four-dimensional tensors: what parameter shares are counted over."""
        return tuple(name for name in self.inherited if len(self.shapes[name]) == 4)

    @cached_property
    def parameters(self) -> int:
        """Convolution parameters of the whole network."""
        return self.circuit_parameters(self.groups)

    def owner(self, tensor: str) -> str:
        """The group that produces `tensor`: the one along axis 0."""
        return self.axes[tensor][0][0]

    def validate(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check the table against a network's real shapes.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape; an axis length is not channels * stride;
                an inherited tensor has no output group; a convolution has an undeclared input axis.
        """
        if dict(self.shapes) != dict(shapes):
            wrong = sorted(set(self.shapes.items()) ^ set(shapes.items()))
            raise ValueError(f"layout and network disagree about {wrong[:4]}")
        for name, axes in self.axes.items():
            for axis, (group, stride) in axes.items():
                length, expected = self.shapes[name][axis], self.groups[group] * stride
                if length != expected:
                    raise ValueError(f"axis {axis} of {name} is {length} long; group {group} needs {expected}")
            if name not in self.head and 0 not in axes:
                raise ValueError(f"{name} has no output group")
        sources = [name for name in self.convolutions if 1 not in self.axes[name]]
        for name in sources:  # only convolutions that read the image may have an undeclared input axis
            if self.shapes[name][1] != 3:
                raise ValueError(f"the input axis of {name} belongs to no group")
        loose = [n for n, shape in self.shapes.items() if n not in self.axes and n not in self.head and shape != ()]
        if loose:
            raise ValueError(f"tensors covered by no group: {loose}")

    def check(self, genotype: Genotype) -> None:
        """Raise ValueError unless `genotype` has exactly this layout's groups and sizes."""
        if genotype.sizes != dict(self.groups):
            raise ValueError(f"genotype has groups {genotype.sizes}, the network has {dict(self.groups)}")

    def circuit_parameters(self, counts: Mapping[str, int]) -> int:
        """Convolution parameters of the circuit: both sides of every kernel restricted to the kept channels."""
        return sum(self.kernel_sizes(counts))

    def kernel_parameters(self, counts: Mapping[str, int]) -> int:
        """Convolution parameters when whole kernels are counted: only the output side restricted."""
        return sum(self._size(name, counts, sides=(0,)) for name in self.convolutions)

    def kernel_sizes(self, counts: Mapping[str, int]) -> list[int]:
        """Parameters of each convolution of the circuit, in forward order."""
        return [fixed * math.prod([counts[group] for group in groups]) for fixed, groups in self._circuits]

    @cached_property
    def _circuits(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """For each convolution, what does not depend on the counts, and the groups whose counts it is multiplied by."""
        circuits = []
        for name in self.convolutions:
            fixed, groups = list(self.shapes[name]), []
            for axis, (group, stride) in self.axes[name].items():
                if axis in (0, 1):
                    fixed[axis] = stride
                    groups.append(group)
            circuits.append((math.prod(fixed), tuple(groups)))
        return tuple(circuits)

    def circuit_share(self, counts: Mapping[str, int]) -> float:
        """`circuit_parameters` over the convolution parameters of the whole network, in 0..1."""
        return self.circuit_parameters(counts) / self.parameters

    def kernel_share(self, counts: Mapping[str, int]) -> float:
        """`kernel_parameters` over the convolution parameters of the whole network, in 0..1."""
        return self.kernel_parameters(counts) / self.parameters

    def full(self) -> Genotype:
        """The genotype that keeps every channel."""
        return Genotype({group: ChannelMask.full(width) for group, width in self.groups.items()})

    def _size(self, name: str, counts: Mapping[str, int], sides: tuple[int, ...]) -> int:
        shape = list(self.shapes[name])
        for axis, (group, stride) in self.axes[name].items():
            if axis in sides:
                shape[axis] = counts[group] * stride
        return math.prod(shape)
