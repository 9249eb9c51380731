"""ChannelMask and Genotype: which channels of each group a gene keeps. Immutable values; numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_SIZE = 65536  # channels of a group, as in a learngene file: sizes come from files, too

Bits = npt.NDArray[np.bool_]


class ChannelMask:
    """A boolean vector over one channel group; True means *kept*. At least one channel is kept.

    Args:
        size: number of channels in the group, 1..65536.
        kept: indices of the kept channels, each in 0..size-1; order and repetition do not matter.

    Raises:
        ValueError: no such size, no channel kept, or an index outside the group.
    """

    __slots__ = ("_bits", "_hash")
    _bits: Bits
    _hash: int

    def __init__(self, size: int, kept: Iterable[int]) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"a channel group of {size} channels; it has 1..{MAX_SIZE}")
        indices = np.asarray(sorted(set(kept)), dtype=np.int64)
        if indices.size == 0:
            raise ValueError(f"a channel mask keeps at least one of its {size} channels; none given")
        if indices[0] < 0 or indices[-1] >= size:
            raise ValueError(f"channel {indices[0] if indices[0] < 0 else indices[-1]} outside a group of {size}")
        bits = np.zeros(size, dtype=np.bool_)
        bits[indices] = True
        self._set(bits)

    @classmethod
    def from_bits(cls, bits: npt.ArrayLike) -> ChannelMask:
        """Mask from a boolean vector of shape ``(size,)``."""
        array = np.array(bits, dtype=np.bool_)
        if array.ndim != 1 or not array.any():
            raise ValueError(f"a channel mask needs a vector with at least one True; got shape {array.shape}")
        mask = cls.__new__(cls)
        mask._set(array)
        return mask

    @classmethod
    def full(cls, size: int) -> ChannelMask:
        """Every channel kept."""
        return cls.from_bits(np.ones(size, dtype=np.bool_))

    def _set(self, bits: Bits) -> None:
        bits.flags.writeable = False
        self._bits = bits
        self._hash = hash((bits.size, np.packbits(bits).tobytes()))

    @property
    def size(self) -> int:
        """Channels in the group."""
        return int(self._bits.size)

    @property
    def bits(self) -> Bits:
        """Read-only boolean vector of shape ``(size,)``."""
        return self._bits

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """Indices of the kept channels, strictly increasing."""
        return np.flatnonzero(self._bits)

    @property
    def dropped(self) -> npt.NDArray[np.int64]:
        """Indices of the channels that are not kept, strictly increasing."""
        return np.flatnonzero(~self._bits)

    def __len__(self) -> int:
        """Number of kept channels."""
        return int(self._bits.sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChannelMask) and np.array_equal(self._bits, other._bits)

    def __hash__(self) -> int:
        return self._hash

    def __deepcopy__(self, memo: dict[int, Any]) -> ChannelMask:
        return self  # immutable: DEAP's clone need not copy it

    def __reduce__(self) -> tuple[Any, ...]:
        return ChannelMask.from_bits, (np.array(self._bits),)

    def __repr__(self) -> str:
        return f"ChannelMask({len(self)} of {self.size})"

    def overlap(self, other: ChannelMask) -> float:
        """Jaccard overlap |A and B| / |A or B| of two masks of one group."""
        return float((self._bits & other._bits).sum() / (self._bits | other._bits).sum())


class Genotype(Mapping[str, ChannelMask]):
    """One channel mask per group, in the order of the network's layout. Immutable and hashable."""

    __slots__ = ("_hash", "_masks")

    def __init__(self, masks: Mapping[str, ChannelMask]) -> None:
        if not masks:
            raise ValueError("a genotype needs at least one channel group")
        self._masks = dict(masks)
        self._hash = hash(tuple(self._masks.items()))

    @classmethod
    def full(cls, widths: Mapping[str, int]) -> Genotype:
        """Every channel of every group kept."""
        return cls({group: ChannelMask.full(width) for group, width in widths.items()})

    @property
    def counts(self) -> dict[str, int]:
        """Kept channels per group."""
        return {group: len(mask) for group, mask in self._masks.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """All channels per group."""
        return {group: mask.size for group, mask in self._masks.items()}

    def replace(self, **masks: ChannelMask) -> Genotype:
        """A genotype with some groups' masks exchanged. Group names with dots go through `replace(**{name: mask})`."""
        return Genotype({**self._masks, **masks})

    def widened(self, sizes: Mapping[str, int]) -> Genotype:
        """The same channels in groups of other sizes; every kept index must lie inside."""
        return Genotype({group: ChannelMask(sizes[group], mask.kept.tolist()) for group, mask in self.items()})

    def overlap(self, other: Genotype) -> float:
        """Jaccard overlap over the channels of all groups: 1 for equal genotypes, 0 for disjoint ones."""
        self._check_same_network(other)
        both = sum(int((mask.bits & other[group].bits).sum()) for group, mask in self.items())
        either = sum(int((mask.bits | other[group].bits).sum()) for group, mask in self.items())
        return both / either

    def union(self, other: Genotype) -> Genotype:
        """The channels that either of two genotypes of one network keeps."""
        self._check_same_network(other)
        return Genotype({group: ChannelMask.from_bits(mask.bits | other[group].bits) for group, mask in self.items()})

    def intersection(self, other: Genotype) -> Genotype:
        """The channels that two genotypes of one network both keep.

        Raises:
            ValueError: they share no channel of some group; names the groups.
        """
        self._check_same_network(other)
        apart = [group for group, mask in self.items() if not (mask.bits & other[group].bits).any()]
        if apart:
            raise ValueError(f"the genotypes share no channel of {', '.join(apart)}")
        return Genotype({group: ChannelMask.from_bits(mask.bits & other[group].bits) for group, mask in self.items()})

    def within(self, outer: Genotype) -> Genotype:
        """The same channels, numbered by their places among those that `outer` keeps: as in its gathered circuit.

        Raises:
            ValueError: `outer` does not keep all of them.
        """
        self._check_same_network(outer)
        if any((mask.bits & ~outer[group].bits).any() for group, mask in self.items()):
            raise ValueError(f"{self} has channels that {outer} does not keep")
        return Genotype({group: ChannelMask.from_bits(mask.bits[outer[group].kept]) for group, mask in self.items()})

    def _check_same_network(self, other: Genotype) -> None:
        if self.sizes != other.sizes:
            raise ValueError(f"genotypes of different networks: {self.sizes} and {other.sizes}")

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Plain form: ``{group: {"size": n, "kept": [indices]}}``."""
        return {group: {"size": mask.size, "kept": mask.kept.tolist()} for group, mask in self.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Mapping[str, Any]]) -> Genotype:
        """Inverse of `to_json`."""
        return cls({group: ChannelMask(int(entry["size"]), entry["kept"]) for group, entry in value.items()})

    def __getitem__(self, group: str) -> ChannelMask:
        return self._masks[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Genotype) and list(self._masks.items()) == list(other._masks.items())

    def __hash__(self) -> int:
        return self._hash

    def __deepcopy__(self, memo: dict[int, Any]) -> Genotype:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Genotype, (self._masks,)

    def __repr__(self) -> str:
        return f"Genotype({', '.join(f'{group} {len(m)}/{m.size}' for group, m in self.items())})"
