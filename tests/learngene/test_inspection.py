"""Looking into a gene: what it costs to run, whether it runs, and what its records say otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pico import ARCHS, GROUPS, noise
from relatives import gene

from gtl.errors import ConfigError
from gtl.genotype import ChannelMask, Genotype
from gtl.learngene.artifact import Learngene
from gtl.learngene.gene_images import image_size
from gtl.learngene.inspection import count_flops, inspect
from gtl.models import gene_layout
from gtl.phenotype import thin_network


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("pixels", [28, 33, 84])
def test_flops_are_two_for_every_weight_and_place(arch: str, pixels: int) -> None:
    found = gene(arch, share=0.6)
    seen = inspect(found, pixels)
    thin = thin_network(arch, found.genotype, found.tensors)
    places = {group: each.shape[2] * each.shape[3] for group, each in thin.activations(noise(1, pixels)).items()}
    layout, counts = gene_layout(arch, found.genotype.sizes), found.genotype.counts
    for row in seen.groups:
        assert row.flops == 2 * row.parameters * places[row.group]
        assert (row.kept, row.size) == (counts[row.group], 6)
    assert sum(row.parameters for row in seen.groups) == layout.circuit_parameters(counts)
    assert seen.flops == sum(row.flops for row in seen.groups) < seen.network_flops
    full = count_flops(arch, layout.groups, pixels)
    assert seen.network_flops == sum(full.values()) and list(full) == list(layout.convolutions)


def test_the_whole_network_is_counted_without_memory_for_it() -> None:
    """Of channels that a file may claim: the convolutions alone would be a terabyte."""
    found = gene("vgg11", width=2)
    wide = Learngene("vgg11", found.genotype.widened(dict.fromkeys(found.genotype, 65536)), found.tensors)
    seen = inspect(wide)
    assert seen.network_flops > 1e13 and seen.flops < 1e6 and seen.runs_alone


def test_counting_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    count_flops("resnet12", dict.fromkeys(GROUPS["resnet12"], 3), 32)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_gene_that_overflows_does_not_run_alone() -> None:
    found = gene()
    assert inspect(found).runs_alone
    huge = {name: tensor * 1e30 if name.endswith("conv.weight") else tensor for name, tensor in found.tensors.items()}
    assert not inspect(Learngene(found.arch, found.genotype, huge)).runs_alone


def test_silent_channels_are_counted() -> None:
    found = gene(share=0.7)
    tensors = {name: tensor.clone() for name, tensor in found.tensors.items()}
    for kind in ("weight", "bias"):
        tensors[f"conv2.norm.{kind}"][:2] = -1.0 if kind == "bias" else 0.0
    assert inspect(Learngene(found.arch, found.genotype, tensors)).silent - inspect(found).silent >= 1
    tensors["conv1.norm.weight"][:] = 0.0
    everything = inspect(Learngene(found.arch, found.genotype, tensors))
    assert everything.silent == sum(found.genotype.counts.values()) and everything.runs_alone


def test_size_is_counted_and_not_believed() -> None:
    honest = gene()
    layout = gene_layout("vgg11", honest.genotype.sizes)
    share = layout.circuit_share(honest.genotype.counts)
    told = gene(shares={"circuit": 0.01, "kernels": layout.kernel_share(honest.genotype.counts)})
    seen = inspect(told)
    assert seen.shares["circuit"] == share and inspect(honest).notes == ()
    assert seen.notes == (f"its records say circuit 0.01, counted are {share:g}",)


@pytest.mark.parametrize(
    ("config", "size", "recorded"),
    [
        ({"data": {"source": "cifar_fs", "image_size": 48}}, 48, True),
        ({"data": {"source": "cifar_fs", "image_size": None}}, 32, False),
        ({"data": {"source": "mini_imagenet"}}, 84, False),
        ({"data": {"image_size": 100000}}, 32, False),
        ({"data": {"image_size": True}}, 32, False),
        ({"data": [3]}, 32, False),
        (None, 32, False),
    ],
)
def test_the_image_size_is_the_recorded_one_or_the_usual(config: Any, size: int, recorded: bool) -> None:
    found = gene(provenance={} if config is None else {"config": config})
    assert image_size(found) == (size, recorded)
    seen = inspect(found)
    assert (seen.image_size, seen.recorded) == (size, recorded)


def test_it_is_plain_json_and_sizes_have_limits() -> None:
    document = json.loads(json.dumps(inspect(gene(), 40).to_json(), allow_nan=False))
    assert document["image_size"] == 40 and document["runs_alone"] is True and len(document["groups"]) == 8
    for pixels in (8, 85):
        with pytest.raises(ConfigError, match="built for 28 to 84"):
            inspect(gene(), pixels)


def test_a_gene_of_one_channel_runs() -> None:
    found = gene("resnet12", width=1)
    assert found.genotype == Genotype({group: ChannelMask(1, [0]) for group in GROUPS["resnet12"]})
    assert inspect(found).runs_alone
