"""The table of channel groups: counting parameters both ways, against numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pico import ARCHS, GROUPS, random_genotype

from gtl.genotype import ChannelMask, Genotype
from gtl.layout import ChannelLayout, Slot
from gtl.models import FAMILIES, gene_layout

# Sums over 3x3 kernels (9 * in * out) and ResNet12's 1x1 shortcuts (in * out), worked out by hand.
VGG11_FULL = 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 3 * 512 * 512)
RESNET12_FULL = 75_648 + 376_832 + 1_507_328 + 6_029_312
RESNET12_WIDE = 75_648 + 563_200 + 2_355_200 + 9_420_800


def base(arch: str, family: str = "64-128-256-512") -> ChannelLayout:
    return gene_layout(arch, FAMILIES[arch].base_widths[family])


def flattened() -> ChannelLayout:
    """A convolution of 3 channels, flattened at 2 x 2, read by a linear layer of 5 channels."""
    return ChannelLayout(
        groups={"conv": 3, "fc": 5},
        slots={"conv": (Slot("conv.weight", 0), Slot("fc.weight", 1, stride=4)), "fc": (Slot("fc.weight", 0),)},
        shapes={"conv.weight": (3, 3, 3, 3), "fc.weight": (5, 12)},
        head=frozenset(),
        norms={"conv": (), "fc": ()},
    )


def test_convolution_parameters_of_the_full_networks() -> None:
    assert VGG11_FULL == 9_217_728 and RESNET12_FULL == 7_989_120 and RESNET12_WIDE == 12_414_848
    for layout, total in (
        (base("vgg11"), VGG11_FULL),
        (base("resnet12"), RESNET12_FULL),
        (base("resnet12", "64-160-320-640"), RESNET12_WIDE),
    ):
        assert layout.circuit_parameters(layout.groups) == layout.kernel_parameters(layout.groups) == total
        assert layout.circuit_share(layout.groups) == layout.kernel_share(layout.groups) == 1.0
        assert sum(layout.kernel_sizes(layout.full().counts)) == total


def test_a_vgg11_gene_by_hand() -> None:
    counts = dict(zip(GROUPS["vgg11"], (2, 3, 5, 7, 11, 13, 17, 19), strict=True))
    layout = base("vgg11")
    circuit = [27 * 2, 9 * 2 * 3, 9 * 3 * 5, 9 * 5 * 7, 9 * 7 * 11, 9 * 11 * 13, 9 * 13 * 17, 9 * 17 * 19]
    kernels = 9 * (3 * 2 + 64 * 3 + 128 * 5 + 256 * 7 + 256 * 11 + 512 * 13 + 512 * 17 + 512 * 19)
    assert layout.kernel_sizes(counts) == circuit
    assert layout.circuit_parameters(counts) == sum(circuit)
    assert layout.kernel_parameters(counts) == kernels
    assert layout.circuit_share(counts) == sum(circuit) / VGG11_FULL
    assert layout.kernel_share(counts) == kernels / VGG11_FULL


def test_a_resnet12_gene_by_hand() -> None:
    counts = dict(zip(GROUPS["resnet12"], (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13), strict=True))
    circuit = 9 * (3 * 2 + 2 * 3 + 3 * 4 + 4 * 5 + 5 * 6 + 6 * 7 + 7 * 8 + 8 * 9 + 9 * 10 + 10 * 11 + 11 * 12 + 12 * 13)
    circuit += 3 * 4 + 4 * 7 + 7 * 10 + 10 * 13  # each stage's shortcut reads the stage before
    assert base("resnet12").circuit_parameters(counts) == circuit


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("p", [0.125, 0.25, 0.5, 0.75])
def test_a_share_p_of_channels_holds_about_p_squared(arch: str, p: float) -> None:
    layout = base(arch)
    counts = {group: round(p * width) for group, width in layout.groups.items()}
    assert layout.circuit_share(counts) == pytest.approx(p * p, rel=0.01), "only the kernels that read the image differ"
    assert layout.kernel_share(counts) == pytest.approx(p, rel=0.001)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_shares_grow_with_every_channel(seed: int) -> None:
    for arch in ARCHS:
        layout = gene_layout(arch, dict.fromkeys(GROUPS[arch], 6))
        small = random_genotype(layout.groups, seed)
        for group, count in small.counts.items():
            if count < 6:
                larger = {**small.counts, group: count + 1}
                assert layout.circuit_parameters(larger) > layout.circuit_parameters(small.counts)
                assert layout.kernel_parameters(larger) > layout.kernel_parameters(small.counts)
        assert 0 < layout.circuit_share(small.counts) <= layout.kernel_share(small.counts) <= 1


def test_a_flattened_axis_holds_stride_entries_a_channel() -> None:
    layout = flattened()
    layout.validate(layout.shapes)
    assert layout.axes["fc.weight"] == {1: ("conv", 4), 0: ("fc", 1)}
    assert layout.convolutions == ("conv.weight",) and layout.inherited == ("conv.weight", "fc.weight")
    assert layout.owner("fc.weight") == "fc"


def test_check_names_both_sides() -> None:
    layout = flattened()
    layout.check(layout.full())
    others: tuple[Mapping[str, int], ...] = ({"conv": 3}, {"conv": 3, "fc": 4}, {"conv": 3, "fc": 5, "more": 1})
    for sizes in others:
        with pytest.raises(ValueError, match="the network has"):
            layout.check(Genotype.full(sizes))
    assert layout.full() == Genotype({"conv": ChannelMask(3, [0, 1, 2]), "fc": ChannelMask.full(5)})


def test_counting_needs_no_torch() -> None:
    code = "import sys, gtl.layout, gtl.genotype, gtl.individual, gtl.seeds; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
