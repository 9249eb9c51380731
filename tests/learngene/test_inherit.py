"""Inheritance: where every parameter of a descendant comes from, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from gene_files import make_gene
from pico import ARCHS, equal, noise, stir
from torch import nn

import gtl
from gtl.errors import ConfigError
from gtl.learngene.artifact import Learngene
from gtl.models import ArchSpec, ConvNet, build
from gtl.phenotype import thin_network
from gtl.surgery import gather, gene_region


def host(gene: Learngene, extra: int = 0, classes: int = 5, seed: int = 1, **widths: int) -> ConvNet:
    """A network of the gene's family, `extra` channels wider in every group."""
    sizes = {group: size + extra for group, size in gene.genotype.sizes.items()} | widths
    return build(ArchSpec(gene.arch, tuple(sizes.items()), classes), seed)


def copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize("lively", [True, False])
def test_a_newborn_computes_what_the_gene_computes_alone(arch: str, extra: int, lively: bool) -> None:
    gene = make_gene(arch, seed=extra)
    network = host(gene, extra)
    if lively:
        stir(network, 3)
    gtl.inherit(network, gene)
    thin = thin_network(arch, gene.genotype, gene.tensors).double()
    network.eval().double()
    with torch.no_grad():
        found = network.activations(noise(dtype=torch.float64))
        alone = thin.activations(noise(dtype=torch.float64))
    for group, mask in gene.genotype.items():
        torch.testing.assert_close(found[group][:, torch.from_numpy(mask.kept)], alone[group], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("extra", [0, 3])
def test_the_report_says_where_every_parameter_came_from(arch: str, extra: int) -> None:
    gene = make_gene(arch, seed=7)
    network = host(gene, extra)
    before = copied(network)
    report = gtl.inherit(network, gene)
    after = network.state_dict()
    layout = network.layout
    placed = gene.genotype.widened(layout.groups)
    assert equal(gather(after, layout, placed), {name: gene.tensors[name] for name in layout.inherited})
    counts = {group: [0, 0, 0] for group in layout.groups}
    for name, parameter in network.named_parameters():
        if name in layout.head:
            assert torch.equal(after[name], before[name]), "the head is fresh"
            continue
        own, zeros = gene_region(layout, placed, name)
        fresh = ~(own | zeros)
        assert torch.equal(after[name][fresh], before[name][fresh]) and not after[name][zeros].any()
        for kind, region in enumerate((own, zeros, fresh)):
            counts[layout.owner(name)][kind] += int(region.sum())
        assert parameter.numel() == own.sum() + zeros.sum() + fresh.sum()
    assert {g.group: [g.inherited, g.zero_filled, g.fresh] for g in report.groups} == counts
    assert [g.group for g in report.groups] == list(layout.groups) and report.arch == arch
    for each in report.groups:
        assert (each.channels, each.kept) == (layout.groups[each.group], len(gene.genotype[each.group]))
    total = sum(p.numel() for p in network.parameters())
    assert report.inherited + report.zero_filled + report.fresh == total
    assert report.head == sum(network.get_parameter(name).numel() for name in layout.head)
    norms = sum(2 * len(gene.genotype[group]) * len(layout.norms[group]) for group in layout.groups)
    assert report.inherited == layout.circuit_parameters(gene.genotype.counts) + norms
    assert report.share == report.inherited / total


def test_the_report_is_plain_json() -> None:
    gene = make_gene()
    report = gtl.inherit(host(gene, 2), gene)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["inherited"] == sum(group["inherited"] for group in document["groups"])
    assert document["fresh"] == sum(group["fresh"] for group in document["groups"]) + document["head"]
    assert document["share"] == report.share and document["arch"] == "vgg11"


def test_inheriting_is_repeatable_and_keeps_the_gene() -> None:
    gene = make_gene(seed=4)
    digest = gene.digest
    one, other = host(gene, 2), host(gene, 2)
    assert gtl.inherit(one, gene) == gtl.inherit(other, gene) == gtl.inherit(one, gene)
    assert equal(one.state_dict(), other.state_dict())
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.fill_(3.0)
    assert gene.digest == digest == Learngene.from_bytes(gene.to_bytes()).digest, "no memory is shared"


def test_the_network_stays_itself() -> None:
    """Same parameter objects (an optimiser may hold them), same mode, same memory layout, still trainable."""
    gene = make_gene(seed=4)
    network = host(gene, 2).to(memory_format=torch.channels_last)
    network.eval()
    parameters = dict(network.named_parameters())
    gtl.inherit(network, gene)
    assert not network.training
    assert all(parameter is parameters[name] for name, parameter in network.named_parameters())
    assert all(p.requires_grad for p in network.parameters())
    assert network.get_parameter("conv2.conv.weight").is_contiguous(memory_format=torch.channels_last)
    network.train()(noise()).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_descendant_of_any_number_of_classes() -> None:
    gene = make_gene(seed=4)
    for classes in (1, 2, 64):
        network = host(gene, classes=classes)
        gtl.inherit(network, gene)
        assert network(noise(2)).shape == (2, classes)


def test_f34_what_is_no_network_is_refused_and_a_refusal_changes_nothing() -> None:
    for network in (nn.Linear(2, 2), nn.Sequential()):
        before = copied(network)
        with pytest.raises(
            ConfigError, match=r"gtl does not know how .* is built; declare it with gtl\.models\.register"
        ):
            gtl.inherit(network, make_gene())
        assert equal(dict(network.state_dict()), before)
    for thing in ("vgg11", None):
        with pytest.raises(ConfigError, match=r"gtl\.inherit takes a torch\.nn\.Module, not a"):
            gtl.inherit(thing, make_gene())  # type: ignore[arg-type]


def test_a_saved_gene_is_inherited_alike(tmp_path) -> None:  # type: ignore[no-untyped-def]
    gene = make_gene(seed=9)
    gene.save(tmp_path / "gene.safetensors")
    one, other = host(gene, 1), host(gene, 1)
    assert gtl.inherit(one, gene) == gtl.inherit(other, gtl.Learngene.load(tmp_path / "gene.safetensors"))
    assert equal(one.state_dict(), other.state_dict())
