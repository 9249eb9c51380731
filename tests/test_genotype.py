"""ChannelMask and Genotype: immutable values that pickle, hash and go through JSON."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtl.genotype import ChannelMask, Genotype

bit_vectors = st.lists(st.booleans(), min_size=1, max_size=40).filter(any)


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    names = draw(st.lists(st.sampled_from(["conv1", "stage1.a", "stage1.out", "z", "a"]), min_size=1, unique=True))
    return Genotype({name: ChannelMask.from_bits(draw(bit_vectors)) for name in names})


# --- masks ---------------------------------------------------------------------------------------------------------


@given(bit_vectors)
def test_a_mask_is_its_kept_channels(bits: list[bool]) -> None:
    mask = ChannelMask.from_bits(bits)
    assert mask == ChannelMask(len(bits), [i for i, bit in enumerate(bits) if bit])
    assert mask.bits.tolist() == bits
    assert len(mask) == sum(bits) and mask.size == len(bits)
    assert sorted([*mask.kept.tolist(), *mask.dropped.tolist()]) == list(range(len(bits)))
    assert (np.diff(mask.kept) > 0).all()
    assert ChannelMask(mask.size, mask.kept.tolist()) == mask


@given(bit_vectors)
def test_a_mask_survives_pickle_and_need_not_be_copied(bits: list[bool]) -> None:
    mask = ChannelMask.from_bits(bits)
    thawed = pickle.loads(pickle.dumps(mask))
    assert thawed == mask and hash(thawed) == hash(mask) and not thawed.bits.flags.writeable
    assert copy.deepcopy(mask) is mask


def test_order_and_repetition_of_kept_channels_do_not_matter() -> None:
    assert ChannelMask(5, [3, 0, 3]) == ChannelMask(5, np.array([0, 3])) == ChannelMask(5, (i for i in (0, 3)))
    assert ChannelMask.full(3).kept.tolist() == [0, 1, 2]


def test_masks_of_other_sizes_differ() -> None:
    assert ChannelMask(5, [1]) != ChannelMask(6, [1])
    assert ChannelMask(5, [1]) != ChannelMask(5, [2])
    assert ChannelMask(5, [1]) != [False, True, False, False, False]
    assert len({ChannelMask(8, [1]), ChannelMask(7, [1]), ChannelMask(8, [1])}) == 2


@pytest.mark.parametrize(("size", "kept"), [(3, []), (0, []), (3, [3]), (3, [-1]), (3, [0, 9]), (0, [0])])
def test_impossible_masks_are_refused(size: int, kept: list[int]) -> None:
    with pytest.raises(ValueError, match=r"channel"):
        ChannelMask(size, kept)


@pytest.mark.parametrize("bits", [[], [False, False], [[True, False]], True])
def test_impossible_bits_are_refused(bits: object) -> None:
    with pytest.raises(ValueError, match="at least one True"):
        ChannelMask.from_bits(bits)  # type: ignore[arg-type]


def test_sizes_are_bounded_before_anything_is_allocated() -> None:
    assert ChannelMask(65536, [0]).size == 65536
    for size in (0, -1, 65537, 10**12):
        with pytest.raises(ValueError, match=r"it has 1\.\.65536"):
            ChannelMask(size, [0])


def test_a_mask_cannot_be_changed() -> None:
    source = np.array([True, False, True])
    mask = ChannelMask.from_bits(source)
    source[:] = True
    assert mask.kept.tolist() == [0, 2], "it owns its bits"
    with pytest.raises(ValueError, match="read-only"):
        mask.bits[1] = True
    for attribute in ("size", "bits", "kept", "note"):
        with pytest.raises(AttributeError):
            setattr(mask, attribute, 1)
    mask.kept[0] = 1
    assert mask.kept.tolist() == [0, 2], "kept is computed anew"


def test_mask_overlap_by_hand() -> None:
    one, other = ChannelMask(6, [0, 1, 2]), ChannelMask(6, [2, 3])
    assert one.overlap(other) == other.overlap(one) == 1 / 4
    assert one.overlap(one) == 1.0 and one.overlap(ChannelMask(6, [5])) == 0.0


# --- genotypes -----------------------------------------------------------------------------------------------------


@given(genotypes())
def test_a_genotype_round_trips(genotype: Genotype) -> None:
    through_json = Genotype.from_json(json.loads(json.dumps(genotype.to_json())))
    for found in (through_json, pickle.loads(pickle.dumps(genotype))):
        assert found == genotype and hash(found) == hash(genotype) and list(found) == list(genotype)
    assert copy.deepcopy(genotype) is genotype
    assert copy.deepcopy([genotype])[0] is genotype
    assert genotype.overlap(genotype) == 1.0
    assert genotype.counts == {group: len(mask) for group, mask in genotype.items()}
    assert genotype.sizes == {group: mask.size for group, mask in genotype.items()}


def test_the_json_form() -> None:
    genotype = Genotype({"a": ChannelMask(3, [2, 0]), "b": ChannelMask(1, [0])})
    assert genotype.to_json() == {"a": {"size": 3, "kept": [0, 2]}, "b": {"size": 1, "kept": [0]}}


@pytest.mark.parametrize("document", [{}, {"a": {"size": 2, "kept": []}}, {"a": {"size": 2, "kept": [2]}}])
def test_impossible_json_is_refused(document: dict[str, dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="channel"):
        Genotype.from_json(document)


def test_a_genotype_is_a_mapping_whose_order_counts() -> None:
    a, b = ChannelMask(4, [0]), ChannelMask(2, [1])
    genotype = Genotype({"a": a, "b": b})
    assert dict(genotype) == {"a": a, "b": b} and len(genotype) == 2 and genotype["b"] is b
    assert genotype != Genotype({"b": b, "a": a}), "groups are in forward order"
    assert genotype != {"a": a, "b": b}
    assert "a 1/4" in repr(genotype) and repr(a) == "ChannelMask(1 of 4)"
    assert Genotype.full({"a": 4, "b": 2}).counts == {"a": 4, "b": 2}


def test_a_genotype_cannot_be_changed() -> None:
    masks = {"a": ChannelMask(4, [0]), "b": ChannelMask(2, [1])}
    genotype = Genotype(masks)
    masks["a"] = ChannelMask(4, [3])
    genotype.counts["a"] = 9
    assert genotype["a"].kept.tolist() == [0] and genotype.counts["a"] == 1
    with pytest.raises(TypeError):
        genotype["a"] = masks["a"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        genotype.note = 1  # type: ignore[attr-defined]
    changed = genotype.replace(a=masks["a"])
    assert changed["a"].kept.tolist() == [3] and changed["b"] is genotype["b"] and genotype["a"].kept.tolist() == [0]
    assert list(changed) == ["a", "b"]


def test_widened_keeps_channels_and_refuses_narrower_groups() -> None:
    genotype = Genotype({"a": ChannelMask(4, [0, 2]), "b": ChannelMask(2, [1])})
    wide = genotype.widened({"a": 9, "b": 2})
    assert wide.sizes == {"a": 9, "b": 2} and wide["a"].kept.tolist() == [0, 2]
    assert genotype.widened({"a": 3, "b": 2})["a"].kept.tolist() == [0, 2], "narrower, but every kept channel is inside"
    with pytest.raises(ValueError, match="channel 2 outside a group of 2"):
        genotype.widened({"a": 2, "b": 2})


def test_genotype_overlap_by_hand() -> None:
    one = Genotype({"a": ChannelMask(4, [0, 1]), "b": ChannelMask(2, [1])})
    other = Genotype({"a": ChannelMask(4, [1, 2]), "b": ChannelMask(2, [1])})
    assert one.overlap(other) == other.overlap(one) == 2 / 4  # a: 1 of 3, b: 1 of 1
    with pytest.raises(ValueError, match="different networks"):
        one.overlap(Genotype({"a": ChannelMask(4, [0])}))


@given(genotypes(), st.data())
def test_unions_and_intersections_are_those_of_sets(genotype: Genotype, data: st.DataObject) -> None:
    other = Genotype({g: ChannelMask.from_bits(data.draw(vectors_of(mask.size))) for g, mask in genotype.items()})
    sets = {group: (set(mask.kept.tolist()), set(other[group].kept.tolist())) for group, mask in genotype.items()}
    both = genotype.union(other)
    assert {group: set(mask.kept.tolist()) for group, mask in both.items()} == {g: a | b for g, (a, b) in sets.items()}
    assert both == other.union(genotype) and both.sizes == genotype.sizes and genotype.union(genotype) == genotype
    apart = [group for group, (a, b) in sets.items() if not a & b]
    if apart:
        with pytest.raises(ValueError, match=f"share no channel of {', '.join(apart)}"):
            genotype.intersection(other)
    else:
        common = genotype.intersection(other)
        assert {g: set(m.kept.tolist()) for g, m in common.items()} == {g: a & b for g, (a, b) in sets.items()}
        assert common == other.intersection(genotype)
        place = common.within(genotype)
        assert place.sizes == genotype.counts
        for group, mask in genotype.items():
            assert mask.kept[place[group].kept].tolist() == common[group].kept.tolist()


def vectors_of(size: int) -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=size, max_size=size).filter(any)


def test_within_refuses_what_is_not_there_and_sets_other_networks() -> None:
    small, large = Genotype({"a": ChannelMask(4, [1])}), Genotype({"a": ChannelMask(4, [0, 1])})
    assert small.within(large) == Genotype({"a": ChannelMask(2, [1])})
    with pytest.raises(ValueError, match="does not keep"):
        large.within(small)
    wider = Genotype({"a": ChannelMask(5, [1])})
    for combine in (small.union, small.intersection, small.within):
        with pytest.raises(ValueError, match="different networks"):
            combine(wider)
