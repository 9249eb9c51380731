"""Subnetwork annealing: probabilities end at exactly zero and one, and what is left is the circuit alone."""

from __future__ import annotations

import pytest
import torch
from pico import ARCHS, CPU, GROUPS, equal, gratings, random_genotype, spec, within_binomial
from torch import nn

from gtl.config import TrainingSection
from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.errors import GeneMismatchError
from gtl.genotype import Genotype
from gtl.models import ConvNet, build
from gtl.phenotype import folded, newborn, thin_network
from gtl.surgery import gather
from gtl.training import train
from gtl.transfer.annealing import SubnetworkAnnealing, Target, circuit_region

RECIPE = TrainingSection(batch_size=8, crop_padding=2)
UNITS = ("parameter", "channel")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return gratings(3, 11)


def gene_of(arch: str, width: int = 4) -> Genotype:
    """Half of the channels of an ancestor of four a group."""
    return random_genotype(dict.fromkeys(GROUPS[arch], 4), 3, 0.5).widened(dict.fromkeys(GROUPS[arch], width))


def alone(network: ConvNet, genotype: Genotype) -> ConvNet:
    """The circuit of a network as a network of its own, with the part of the head that reads it."""
    layout = network.layout
    thin = thin_network(network.spec.arch, genotype, gather(network.state_dict(), layout, genotype), 3)
    last = list(genotype)[-1]
    with torch.no_grad():
        thin.head.weight.copy_(network.head.weight[:, torch.tensor(genotype[last].kept)])
        thin.head.bias.copy_(network.head.bias)
    return thin


# --- probabilities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("duration", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 300])
def test_probabilities_fall_to_exactly_zero(schedule: str, duration: float, steps: int) -> None:
    rule = SubnetworkAnnealing(gene_of("vgg11"), initial=0.8, duration=duration, schedule=schedule)  # type: ignore[arg-type]
    found = [rule.probability(step, steps) for step in range(steps + 1)]
    assert found[0] == 0.8 and found[-1] == 0.0
    assert found == sorted(found, reverse=True)
    assert all((p == 0.0) is (step >= duration * steps) for step, p in enumerate(found))
    if steps == 300:
        assert rule.probability(round(duration * 150), 300) == pytest.approx(0.4)


@pytest.mark.parametrize("arch", ARCHS)
def test_masks_are_drawn_and_end_at_the_circuit(arch: str) -> None:
    network, genotype = build(spec(arch, 8), 1), gene_of(arch, 8)
    target = Target.of(network, genotype, torch.device("cpu"))

    def drawn(unit: str, probability: float) -> dict[str, torch.Tensor]:
        draws = torch.Generator().manual_seed(4)
        return target.channels(probability, draws) if unit == "channel" else target.parameters(probability, draws)

    for unit in UNITS:
        inside = drawn(unit, 0.0)
        assert all(torch.equal(mask, circuit_region(network.layout, genotype, n)) for n, mask in inside.items())
        assert all(mask.all() for mask in drawn(unit, 1.0).values()), "at one, everything takes part"
        some = drawn(unit, 0.3)
        assert all(bool(mask[inside[name]].all()) for name, mask in some.items()), "the circuit always takes part"
    outside = torch.cat([mask[~inside] for mask, inside in zip(
        drawn("parameter", 0.3).values(), drawn("parameter", 0.0).values(), strict=True
    )])  # fmt: skip
    assert within_binomial(int(outside.sum()), len(outside), 0.3)
    some = drawn("channel", 0.5)
    for group, names in target.norms.items():
        assert all(torch.equal(some[names[0]], some[name]) for name in names), f"{group}: a channel is drawn as one"


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("unit", UNITS)
def test_a_training_ends_with_the_circuit_alone(images: ImageSet, arch: str, unit: str) -> None:
    network, genotype = build(spec(arch, 6), 1), gene_of(arch)
    rule = SubnetworkAnnealing(genotype, unit=unit)  # type: ignore[arg-type]
    result = rule.train(network, images, RECIPE, steps=16, seed=5, compute=CPU)
    wide = genotype.widened(network.widths)
    zeros = 0
    for name in network.layout.axes:
        if name.endswith(("running_mean", "running_var")):
            continue
        region = circuit_region(network.layout, wide, name)
        parameter = network.get_parameter(name)
        assert not parameter[~region].any() and parameter[region].all(), name
        zeros += int((~region).sum())
    assert zeros > 0 and result.finite
    pixels = to_input(images.images)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(pixels), alone(network, wide).eval()(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("unit", UNITS)
def test_from_zero_on_it_trains_the_thin_network(images: ImageSet, arch: str, unit: str) -> None:
    genotype = gene_of(arch)
    donor = build(spec(arch), 9)
    network = newborn(spec(arch), genotype, gather(donor.state_dict(), donor.layout, genotype), 2)
    thin = alone(network, genotype)
    rule = SubnetworkAnnealing(genotype, initial=0.0, unit=unit)  # type: ignore[arg-type]
    rule.train(network, images, RECIPE, steps=4, seed=5, compute=CPU)
    train(thin, images, RECIPE, steps=4, seed=5, compute=CPU)
    found = alone(network, genotype).state_dict()
    for name, tensor in thin.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def test_while_it_trains_the_circuit_is_shown(images: ImageSet) -> None:
    network, genotype, seen = build(spec(), 1), gene_of("vgg11"), []

    def watch(progress: object) -> None:
        seen.append(all(
            not network.get_parameter(name)[~circuit_region(network.layout, genotype, name)].any()
            for name in ("conv2.conv.weight", "conv8.norm.weight", "head.weight")
        ))  # fmt: skip

    rule = SubnetworkAnnealing(genotype, duration=1.0)
    rule.train(network, images, RECIPE, steps=12, seed=5, compute=CPU, on_epoch=watch)
    assert seen == [True, True]


def test_what_is_annealed_away_trains_along(images: ImageSet) -> None:
    """The circuit ends elsewhere than without the rest, and elsewhere by every schedule and unit."""
    states = []
    for options in ({"initial": 0.0}, {}, {"schedule": "linear"}, {"unit": "channel"}, {"duration": 1.0}):
        network = build(spec(), 1)
        SubnetworkAnnealing(gene_of("vgg11"), **options).train(  # type: ignore[arg-type]
            network, images, RECIPE, steps=8, seed=5, compute=CPU
        )
        states.append(gather(network.state_dict(), network.layout, gene_of("vgg11")))
    assert not any(equal(one, other) for i, one in enumerate(states) for other in states[:i])


# --- networks that it cannot be for --------------------------------------------------------------------------------


def test_networks_without_the_genes_channels_are_refused(images: ImageSet) -> None:
    rule = SubnetworkAnnealing(gene_of("vgg11", 6))
    narrow = build(spec(width=1), 1)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * 3, 3))
    for network, said in (
        (plain, "a Sequential does not say. Use a network of gtl.models, or another rule"),
        (build(spec("resnet12"), 1), "another architecture. Use a network of the gene's family"),
        (narrow, "the network has 1. Use a network of at least"),
        (folded(build(spec(width=6), 1)), "the network has no conv1.norm.weight: its norms are folded"),
    ):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with pytest.raises(GeneMismatchError, match=said):
            rule.train(network, images, RECIPE, steps=2, seed=5, compute=CPU)
        assert equal(network.state_dict(), before)
