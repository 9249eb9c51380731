"""The laws of surgery, for random widths and genotypes of both architectures, with norms far from their initial state.

masked == gathered; scatter then gather == identity; an inserted gene computes in any wider network what it computes
alone. In double precision, so that an equality can be told from a small difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pico import ARCHS, GROUPS, equal, noise, random_genotype, spec, stir

from gtl.errors import GeneMismatchError
from gtl.genotype import ChannelMask, Genotype
from gtl.layout import ChannelLayout, Slot
from gtl.models import ArchSpec, ConvNet, build, gene_layout
from gtl.phenotype import newborn, thin_network
from gtl.surgery import GeneTensors, axis_index, check_fits, combine, gather, gene_region, mask, scatter

LAWS = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31)


@dataclass(frozen=True)
class Case:
    """A network with lively norms, and a genotype of it."""

    network: ConvNet
    genotype: Genotype
    seed: int

    @property
    def layout(self) -> ChannelLayout:
        return self.network.layout

    @property
    def gene(self) -> GeneTensors:
        return gather(self.network.state_dict(), self.layout, self.genotype)

    @property
    def thin(self) -> ConvNet:
        return thin_network(self.network.spec.arch, self.genotype, self.gene).double()


@st.composite
def cases(draw: st.DrawFn, most: int = 5) -> Case:
    arch = draw(st.sampled_from(ARCHS))
    widths = tuple((group, draw(st.integers(1, most))) for group in GROUPS[arch])
    masks = {
        group: ChannelMask.from_bits(draw(st.lists(st.booleans(), min_size=width, max_size=width).filter(any)))
        for group, width in widths
    }
    seed = draw(SEEDS)
    network = stir(build(ArchSpec(arch, widths, 2), seed), seed).double()
    return Case(network, Genotype(masks), seed)


def wider(case: Case, lively: bool) -> ConvNet:
    """Another network of the family, up to four channels wider in every group, in eval mode."""
    draw = np.random.default_rng(case.seed)
    widths = tuple((group, width + int(draw.integers(0, 5))) for group, width in case.layout.groups.items())
    host = build(ArchSpec(case.network.spec.arch, widths, 3), case.seed + 1)
    return (stir(host, case.seed + 2) if lively else host.eval()).double()


@torch.no_grad()
def activations(network: ConvNet, state: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Activations of all groups for the same images, with another state if given."""
    if state is not None:
        network.load_state_dict(state)
    return network.activations(noise(dtype=torch.float64))


def same(found: Mapping[str, torch.Tensor], kept: Genotype, alone: Mapping[str, torch.Tensor]) -> bool:
    """Whether the kept channels of every group show what the thin network shows."""
    return all(
        torch.allclose(found[group][:, torch.from_numpy(mask_.kept)], alone[group], rtol=1e-9, atol=1e-9)
        for group, mask_ in kept.items()
    )


# --- the three laws ------------------------------------------------------------------------------------------------


@given(cases())
@LAWS
def test_masked_equals_gathered(case: Case) -> None:
    alone = activations(case.thin)
    masked = activations(case.network, mask(case.network.state_dict(), case.layout, case.genotype))
    assert same(masked, case.genotype, alone)
    for group, chosen in case.genotype.items():
        assert not masked[group][:, torch.from_numpy(chosen.dropped)].any(), "exactly zero"


@given(cases())
@LAWS
def test_masked_and_gathered_give_the_same_logits(case: Case) -> None:
    """Through the head too: its kept columns on the thin network's features."""
    last = list(case.layout.groups)[-1]
    head = case.network.head
    columns = torch.from_numpy(case.genotype[last].kept)
    with torch.no_grad():
        expected = case.thin.features(noise(dtype=torch.float64)) @ head.weight[:, columns].T + head.bias
        case.network.load_state_dict(mask(case.network.state_dict(), case.layout, case.genotype))
        torch.testing.assert_close(case.network(noise(dtype=torch.float64)), expected, rtol=1e-9, atol=1e-9)


@given(cases())
@LAWS
def test_gather_undoes_scatter(case: Case) -> None:
    host = wider(case, lively=True)
    placed = case.genotype.widened(host.layout.groups)
    inserted = scatter(case.gene, case.genotype, host.state_dict(), host.layout)
    assert equal(gather(inserted, host.layout, placed), case.gene)


@given(cases(), st.booleans())
@LAWS
def test_an_inserted_gene_computes_what_it_computes_alone(case: Case, lively: bool) -> None:
    """In a host with lively norms, and as it stands in a randomly initialised one."""
    host = wider(case, lively)
    inserted = scatter(case.gene, case.genotype, host.state_dict(), host.layout)
    assert same(activations(host, inserted), case.genotype, activations(case.thin))


@given(cases())
@LAWS
def test_scatter_leaves_the_rest_of_the_host_alone(case: Case) -> None:
    host = wider(case, lively=True)
    before = host.state_dict()
    after = scatter(case.gene, case.genotype, before, host.layout)
    placed = case.genotype.widened(host.layout.groups)
    assert list(after) == list(before)
    for name, tensor in after.items():
        if name not in host.layout.inherited:
            assert torch.equal(tensor, before[name]), f"{name}: heads and counters are not inherited"
            continue
        own, zeros = gene_region(host.layout, placed, name)
        assert not (own & zeros).any()
        assert torch.equal(tensor[own], case.gene[name].flatten()), "row-major order is the gene's order"
        assert not tensor[zeros].any()
        assert torch.equal(tensor[~(own | zeros)], before[name][~(own | zeros)])


@given(cases())
@LAWS
def test_surgery_changes_no_input_and_shares_no_memory(case: Case) -> None:
    state = case.network.state_dict()
    gene = case.gene
    state_before, gene_before = ({n: t.clone() for n, t in tensors.items()} for tensors in (state, gene))
    results: list[Mapping[str, torch.Tensor]] = [
        mask(state, case.layout, case.genotype),
        scatter(gene, case.genotype, state, case.layout),
        gather(state, case.layout, case.genotype),
        gather(state, case.layout, case.layout.full()),
        combine(
            [(case.genotype, gene), (case.layout.full(), gather(state, case.layout, case.layout.full()))], case.layout
        )[1],
        combine([(case.genotype, gene), (case.genotype, gene)], case.layout)[1],
    ]
    for result in results:
        for tensor in result.values():
            tensor.fill_(9)
    assert equal(state, state_before) and equal(gene, gene_before)


@given(cases())
@LAWS
def test_gene_tensors_are_the_thin_network_without_its_head(case: Case) -> None:
    thin = case.thin
    assert set(case.gene) == set(thin.layout.inherited) == {n for n in thin.layout.shapes if n in case.layout.inherited}
    assert {n: tuple(t.shape) for n, t in case.gene.items()} == {n: thin.layout.shapes[n] for n in case.gene}
    kernels = sum(case.gene[name].numel() for name in case.layout.convolutions)
    assert kernels == case.layout.circuit_parameters(case.genotype.counts), "what is counted is what is carried"
    assert equal(gather(thin.state_dict(), thin.layout, thin.layout.full()), case.gene)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_full_gene_is_the_network(arch: str) -> None:
    network = stir(build(spec(arch)), 1)
    state, layout = network.state_dict(), network.layout
    full = layout.full()
    assert equal(mask(state, layout, full), state)
    assert equal(scatter(gather(state, layout, full), full, state, layout), state)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_law_in_single_precision(arch: str) -> None:
    network = stir(build(spec(arch, width=8)), 5)
    genotype = random_genotype(network.widths, 6)
    thin = thin_network(arch, genotype, gather(network.state_dict(), network.layout, genotype))
    network.load_state_dict(mask(network.state_dict(), network.layout, genotype))
    with torch.no_grad():
        found, alone = network.activations(noise(size=28)), thin.activations(noise(size=28))
    for group, chosen in genotype.items():
        torch.testing.assert_close(found[group][:, torch.from_numpy(chosen.kept)], alone[group], rtol=1e-4, atol=1e-4)


def test_newborn_is_a_seeded_host_with_the_gene_in_it() -> None:
    network = stir(build(spec("vgg11")), 1)
    genotype = random_genotype(network.widths, 2)
    gene = gather(network.state_dict(), network.layout, genotype)
    host = newborn(spec("vgg11", width=6, classes=5), genotype, gene, seed=3)
    fresh = build(spec("vgg11", width=6, classes=5), seed=3).state_dict()
    assert equal(host.state_dict(), scatter(gene, genotype, fresh, host.layout))
    assert torch.equal(host.head.weight, fresh["head.weight"])


# --- controls: the tests above can fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_control_a_mask_before_the_norm_is_another_function(arch: str) -> None:
    network = stir(build(spec(arch, width=6)), 7).double()
    genotype = random_genotype(network.widths, 8, share=0.5)
    case = Case(network, genotype, 7)
    alone = activations(case.thin)
    wrong = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in case.layout.convolutions:
        wrong[name][torch.from_numpy(genotype[case.layout.owner(name)].dropped)] = 0.0
    right = mask(network.state_dict(), case.layout, genotype)
    found = activations(network, wrong)
    last = list(genotype)[-1]
    assert not same(found, genotype, alone)
    assert float((found[last][:, torch.from_numpy(genotype[last].kept)] - alone[last]).abs().max()) > 0.1
    assert same(activations(network, right), genotype, alone)


@pytest.mark.parametrize("arch", ARCHS)
def test_control_half_a_mask_or_half_a_norm_is_another_function(arch: str) -> None:
    """Only the scales to zero (the shift comes through); or, where branches meet, only one of two norms."""
    network = stir(build(spec(arch, width=6)), 7).double()
    genotype = random_genotype(network.widths, 8, share=0.5)
    alone = activations(Case(network, genotype, 7).thin)
    state, right = network.state_dict(), mask(network.state_dict(), network.layout, genotype)
    no_shift = {n: state[n] if n.endswith("norm.bias") else tensor for n, tensor in right.items()}
    assert not same(activations(network, no_shift), genotype, alone)
    if arch == "resnet12":
        one_branch = {n: state[n] if "shortcut_norm" in n else tensor for n, tensor in right.items()}
        assert not same(activations(network, one_branch), genotype, alone)


@pytest.mark.parametrize("arch", ARCHS)
def test_control_without_the_zero_block_the_host_leaks_in(arch: str) -> None:
    network = stir(build(spec(arch, width=4)), 9).double()
    genotype = random_genotype(network.widths, 10, share=0.5)
    case = Case(network, genotype, 9)
    host = wider(case, lively=True)
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    inserted = scatter(case.gene, genotype, before, host.layout)
    placed = genotype.widened(host.layout.groups)
    leaking = dict(inserted)
    for name in host.layout.convolutions:
        _, zeros = gene_region(host.layout, placed, name)
        leaking[name] = torch.where(zeros, before[name], inserted[name])
    assert not same(activations(host, leaking), genotype, activations(case.thin))
    assert same(activations(host, inserted), genotype, activations(case.thin))


# --- combining genes -----------------------------------------------------------------------------------------------


def gene_of(arch: str, seed: int, genotype: Genotype) -> tuple[Genotype, GeneTensors]:
    network = stir(build(ArchSpec(arch, tuple(genotype.sizes.items()), 1), seed), seed).double()
    return genotype, gather(network.state_dict(), network.layout, genotype)


@given(st.sampled_from(ARCHS), SEEDS, st.integers(1, 4))
@LAWS
def test_siblings_are_averaged(arch: str, seed: int, count: int) -> None:
    layout = gene_layout(arch, dict.fromkeys(GROUPS[arch], 5))
    genotype = random_genotype(layout.groups, seed)
    litter = [gene_of(arch, seed + i, genotype) for i in range(count)]
    found, tensors = combine(litter, layout)
    assert found == genotype and list(tensors) == list(layout.inherited)
    for name, tensor in tensors.items():
        expected = torch.stack([gene[name] for _, gene in litter]).mean(0)
        torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)
    _, reversed_ = combine(litter[::-1], layout)
    assert all(torch.allclose(tensors[n], reversed_[n], rtol=1e-12) for n in tensors), "the order does not matter"
    _, itself = combine([litter[0]] * 2, layout)
    assert equal(itself, litter[0][1])


@given(st.sampled_from(ARCHS), SEEDS)
@LAWS
def test_different_genes_are_united(arch: str, seed: int) -> None:
    layout = gene_layout(arch, dict.fromkeys(GROUPS[arch], 5))
    first = gene_of(arch, seed, random_genotype(layout.groups, seed))
    second = gene_of(arch, seed + 1, random_genotype(layout.groups, seed + 1))
    union, tensors = combine([first, second], layout)
    for group, chosen in union.items():
        assert chosen == ChannelMask.from_bits(first[0][group].bits | second[0][group].bits)
    full = {}
    for name in layout.inherited:
        one, two, both = (gene_region(layout, genotype, name)[0] for genotype in (first[0], second[0], union))
        laid_out = [torch.zeros(layout.shapes[name], dtype=torch.float64) for _ in range(2)]
        full[name], of_second = laid_out
        full[name][both] = tensors[name].flatten()
        of_second[two] = second[1][name].flatten()
        assert torch.equal(full[name][two & ~one], of_second[two & ~one]), "what only the second has: the second's"
        assert not full[name][~one & ~two].any(), "between strangers: nothing"
    assert equal(gather(full, layout, first[0]), first[1]), "inside the first parent: the first's"


def test_disjoint_genes_unite_in_either_order() -> None:
    layout = gene_layout("vgg11", dict.fromkeys(GROUPS["vgg11"], 4))
    one = gene_of("vgg11", 1, Genotype({group: ChannelMask(4, [0, 2]) for group in layout.groups}))
    other = gene_of("vgg11", 2, Genotype({group: ChannelMask(4, [1, 3]) for group in layout.groups}))
    united, reversed_ = combine([one, other], layout), combine([other, one], layout)
    assert united[0] == reversed_[0] == layout.full() and equal(united[1], reversed_[1])


def test_a_gene_united_with_part_of_itself_is_itself() -> None:
    layout = gene_layout("resnet12", dict.fromkeys(GROUPS["resnet12"], 5))
    whole = gene_of("resnet12", 1, random_genotype(layout.groups, 1, share=0.8))
    some = Genotype({group: ChannelMask(5, chosen.kept[:2].tolist()) for group, chosen in whole[0].items()})
    _, part = gene_of("resnet12", 1, some)
    for pair in ([whole, (some, part)], [(some, part), whole]):
        found, tensors = combine(pair, layout)
        assert found == whole[0] and equal(tensors, whole[1])


def test_united_genes_compute_both_where_they_share_nothing() -> None:
    """Two circuits without a common channel do not disturb each other."""
    sizes = dict.fromkeys(GROUPS["vgg11"], 4)
    layout = gene_layout("vgg11", sizes)
    parents = [
        gene_of("vgg11", number, Genotype({group: ChannelMask(4, [number, number + 2]) for group in sizes}))
        for number in range(2)
    ]
    union, tensors = combine(parents, layout)
    assert union == layout.full()
    together = activations(thin_network("vgg11", union, tensors).double())
    for genotype, gene in parents:
        assert same(together, genotype, activations(thin_network("vgg11", genotype, gene).double()))


# --- strides, and what is refused ----------------------------------------------------------------------------------


def test_a_flattened_axis_is_cut_in_whole_channels() -> None:
    layout = ChannelLayout(
        groups={"conv": 3, "fc": 2},
        slots={"conv": (Slot("conv.weight", 0), Slot("fc.weight", 1, stride=4)), "fc": (Slot("fc.weight", 0),)},
        shapes={"conv.weight": (3, 3, 1, 1), "fc.weight": (2, 12)},
        head=frozenset(),
        norms={"conv": (), "fc": ()},
    )
    layout.validate(layout.shapes)
    genotype = Genotype({"conv": ChannelMask(3, [0, 2]), "fc": ChannelMask(2, [1])})
    state = {"conv.weight": torch.arange(9.0).view(3, 3, 1, 1), "fc.weight": torch.arange(24.0).view(2, 12)}
    gene = gather(state, layout, genotype)
    assert gene["fc.weight"].tolist() == [[12, 13, 14, 15, 20, 21, 22, 23]]
    assert gene["conv.weight"].flatten().tolist() == [0, 1, 2, 6, 7, 8]
    assert axis_index(torch.tensor([0, 2]), 4).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    inserted = scatter(gene, genotype, {n: torch.ones_like(t) for n, t in state.items()}, layout)
    assert inserted["fc.weight"].tolist() == [[1] * 12, [12, 13, 14, 15, 0, 0, 0, 0, 20, 21, 22, 23]]


def test_check_fits_names_the_group() -> None:
    narrow = gene_layout("vgg11", {group: 2 if group == "conv5" else 6 for group in GROUPS["vgg11"]})
    genotype = Genotype({group: ChannelMask(6, [1, 4]) for group in GROUPS["vgg11"]})
    with pytest.raises(GeneMismatchError, match=r"group conv5: .* keeps channel 4 .* at least 5 channels"):
        check_fits(genotype, narrow)
    with pytest.raises(GeneMismatchError, match="another architecture"):
        check_fits(genotype, gene_layout("resnet12", dict.fromkeys(GROUPS["resnet12"], 9)))
    with pytest.raises(GeneMismatchError, match="channel groups"):
        check_fits(Genotype(dict(list(genotype.items())[:-1])), narrow)
    check_fits(Genotype({group: ChannelMask(6, [1]) for group in GROUPS["vgg11"]}), narrow)


def test_scatter_refuses_what_does_not_fit() -> None:
    network = build(spec("vgg11", width=6))
    genotype = Genotype({group: ChannelMask(6, [1, 4]) for group in GROUPS["vgg11"]})
    gene = gather(network.state_dict(), network.layout, genotype)
    small = build(spec("vgg11", width=4))
    with pytest.raises(GeneMismatchError, match="group conv1"):
        scatter(gene, genotype, small.state_dict(), small.layout)
    for shape in ((2, 2, 3), (2, 2, 1, 1), (1, 2, 3, 3), (2, 2, 3, 4)):
        with pytest.raises(GeneMismatchError, match=r"conv3.conv.weight has shape .*, expected \(2, 2, 3, 3\)"):
            scatter({**gene, "conv3.conv.weight": torch.ones(shape)}, genotype, network.state_dict(), network.layout)
    with pytest.raises(ValueError, match="the network has"):
        mask(network.state_dict(), network.layout, genotype.widened(dict.fromkeys(genotype, 7)))


def test_a_gene_fits_a_narrower_network_that_has_its_channels() -> None:
    network = stir(build(spec("vgg11", width=6)), 1)
    genotype = Genotype({group: ChannelMask(6, [0, 2]) for group in GROUPS["vgg11"]})
    gene = gather(network.state_dict(), network.layout, genotype)
    small = build(spec("vgg11", width=3))
    inserted = scatter(gene, genotype, small.state_dict(), small.layout)
    assert equal(gather(inserted, small.layout, genotype.widened(small.widths)), gene)


def test_gene_region_covers_rows_of_the_gene() -> None:
    layout = gene_layout("vgg11", dict.fromkeys(GROUPS["vgg11"], 4))
    genotype = random_genotype(layout.groups, 3, share=0.5)
    for before, group in pairwise(layout.groups):
        own, zeros = gene_region(layout, genotype, f"{group}.conv.weight")
        assert int(own.sum()) == 9 * len(genotype[group]) * len(genotype[before])
        assert int((own | zeros).sum()) == 9 * len(genotype[group]) * 4
        assert gene_region(layout, genotype, f"{group}.norm.bias")[1].sum() == 0
