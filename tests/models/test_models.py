"""The networks: every size and width runs, the declared table is the network's own, building is seeded."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from pico import ARCHS, GROUPS, equal, noise, spec, stir
from torch import nn

from gtl.errors import ConfigError
from gtl.layout import ChannelLayout, Slot
from gtl.models import FAMILIES, ArchSpec, ConvNet, build, gene_layout, resnet12, spec_of, vgg11

NETWORKS = [(arch, family) for arch, known in FAMILIES.items() for family in known.base_widths]
SIZES = (28, 29, 32, 33, 47, 64, 83, 84)


def shapes_of(network: ConvNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


# --- forward -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("arch", "family"), NETWORKS)
def test_every_image_size_runs(arch: str, family: str, size: int) -> None:
    network = build(spec_of(arch, num_classes=3, width=1 / 16, family=family)).eval()
    with torch.no_grad():
        logits = network(noise(2, size))
        activations = network.activations(noise(2, size))
    assert logits.shape == (2, 3) and bool(torch.isfinite(logits).all())
    assert {group: a.shape[1] for group, a in activations.items()} == network.widths
    assert list(activations) == list(network.layout.groups), "in forward order"


@pytest.mark.parametrize("width", [1e-9, 0.01, 0.125, 0.25, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("arch", "family"), NETWORKS)
def test_every_width_runs_and_matches_its_table(arch: str, family: str, width: float) -> None:
    network = build(spec_of(arch, num_classes=2, width=width, family=family))
    expected = {g: max(1, round(w * width)) for g, w in FAMILIES[arch].base_widths[family].items()}
    assert network.widths == expected == dict(network.layout.groups)
    network.layout.validate(shapes_of(network))
    trainable = sum(p.numel() for name, p in network.named_parameters() if p.dim() == 4)
    assert trainable == network.layout.circuit_parameters(network.widths)
    with torch.no_grad():
        assert network(noise(2, 28)).shape == (2, 2)


@pytest.mark.parametrize("arch", ARCHS)
def test_uneven_widths_run(arch: str) -> None:
    widths = tuple((group, 1 + i % 5) for i, group in enumerate(GROUPS[arch]))
    network = build(ArchSpec(arch, widths, 7))
    network.layout.validate(shapes_of(network))
    assert network(noise(2, 28)).shape == (2, 7) and network.features(noise(2, 28)).shape == (2, widths[-1][1])


@pytest.mark.parametrize("arch", ARCHS)
def test_activations_come_after_norm_and_rectifier(arch: str) -> None:
    network = stir(build(spec(arch)), 1)
    with torch.no_grad():
        found = network.activations(noise())
        features = network.features(noise())
        assert torch.equal(network(noise()), network.head(features))
    lowest = [float(found[group].min()) for group in network.layout.groups]
    if arch == "vgg11":
        assert min(lowest) >= 0
    else:
        assert max(lowest) < 0, "leaky"


@pytest.mark.parametrize("arch", ARCHS)
def test_stages_lead_to_the_features(arch: str) -> None:
    """One behind the other; each gives what the next reads, and the last but one what is averaged."""
    network = stir(build(spec(arch)), 1)
    with torch.no_grad():
        x, shapes = noise(2, 32), []
        for name, stage in network.stages().items():
            x = stage(x)
            shapes.append((name, tuple(x.shape[2:])))
        assert torch.equal(x, network.features(noise(2, 32)))
    groups = GROUPS[arch] if arch == "vgg11" else ("stage1", "stage2", "stage3", "stage4")
    sizes = {"vgg11": (16, 8, 8, 4, 4, 2, 2, 2), "resnet12": (16, 8, 4, 2)}[arch]
    assert shapes == [*((name, (size, size)) for name, size in zip(groups, sizes, strict=True)), ("pooled", ())]


def test_vgg11_is_the_textbook_network() -> None:
    """The same forward, written out layer by layer."""
    network = stir(vgg11(num_classes=3, width=1 / 16), 3)
    layers: list[nn.Module] = []
    for group in GROUPS["vgg11"]:
        unit = network.get_submodule(group)
        layers += [unit.get_submodule("conv"), unit.get_submodule("norm"), nn.ReLU()]
        if group in ("conv1", "conv2", "conv4", "conv6"):
            layers.append(nn.MaxPool2d(2, 2))
    plain = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.head)
    with torch.no_grad():
        torch.testing.assert_close(network(noise(2, 32)), plain(noise(2, 32)))


def test_resnet12_is_the_textbook_network() -> None:
    network = stir(resnet12(num_classes=3, width=1 / 16), 3)
    with torch.no_grad():
        x = noise(2, 32)
        for number in range(1, 5):
            a, b, out = (network.get_submodule(f"stage{number}.{part}") for part in ("a", "b", "out"))
            h = nn.functional.leaky_relu(a.norm(a.conv(x)), 0.1)
            h = nn.functional.leaky_relu(b.norm(b.conv(h)), 0.1)
            h = out.norm(out.conv(h)) + out.shortcut_norm(out.shortcut(x))
            x = nn.functional.max_pool2d(nn.functional.leaky_relu(h, 0.1), 2)
        torch.testing.assert_close(network(noise(2, 32)), network.head(x.mean(dim=(2, 3))))


# --- the table -----------------------------------------------------------------------------------------------------


def test_vgg_pools_before_it_rectifies_and_nothing_changes() -> None:
    """To the bit, gradients too: features against those of the activations, in training."""
    network, other = build(spec("vgg11"), 1).train(), build(spec("vgg11"), 1).train()
    network.features(noise(6)).square().sum().backward()  # type: ignore[no-untyped-call]
    other.activations(noise(6))["conv8"].mean(dim=(2, 3)).square().sum().backward()
    for (name, parameter), twin in zip(network.named_parameters(), other.parameters(), strict=True):
        if not name.startswith("head."):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0
            assert twin.grad is not None and torch.equal(parameter.grad, twin.grad), name


@pytest.mark.parametrize("arch", ARCHS)
def test_every_tensor_is_covered_exactly_once(arch: str) -> None:
    layout = build(spec(arch, width=5)).layout
    slots = [(slot.tensor, slot.axis) for group in layout.groups for slot in layout.slots[group]]
    assert len(slots) == len(set(slots))
    counters = {name for name in layout.shapes if name.endswith("num_batches_tracked")}
    assert set(layout.inherited) | counters | layout.head == set(layout.shapes)
    assert not set(layout.inherited) & layout.head
    assert {layout.owner(name) for name in layout.inherited} == set(layout.groups)


def test_what_meets_at_an_addition_shares_a_group() -> None:
    layout = build(spec("resnet12", width=5)).layout
    for number in range(1, 5):
        group = f"stage{number}.out"
        assert layout.owner(f"{group}.conv.weight") == layout.owner(f"{group}.shortcut.weight") == group
        assert layout.norms[group] == (f"{group}.norm", f"{group}.shortcut_norm")
    for number in range(2, 5):
        readers = {slot.tensor for slot in layout.slots[f"stage{number - 1}.out"] if slot.axis == 1}
        assert readers == {f"stage{number}.a.conv.weight", f"stage{number}.out.shortcut.weight"}


def broken(layout: ChannelLayout, group: str, slots: tuple[Slot, ...]) -> ChannelLayout:
    return replace(layout, slots={**layout.slots, group: slots})


def test_a_broken_table_is_refused() -> None:
    network = build(spec("vgg11", width=5))
    layout, shapes = network.layout, shapes_of(network)
    kernel, *rest = layout.slots["conv2"]
    assert kernel == Slot("conv2.conv.weight", 0)
    with pytest.raises(ValueError, match=r"axis 0 of conv2.conv.weight is 5 long; group conv2 needs 10"):
        broken(layout, "conv2", (Slot(kernel.tensor, 0, stride=2), *rest)).validate(shapes)
    with pytest.raises(ValueError, match=r"axis 0 of conv2.conv.weight is in two groups: conv2, conv3"):
        broken(layout, "conv3", (*layout.slots["conv3"], kernel)).validate(shapes)
    with pytest.raises(ValueError, match=r"conv2.conv.weight has no output group"):
        broken(layout, "conv2", tuple(rest)).validate(shapes)
    with pytest.raises(ValueError, match=r"input axis of conv2.conv.weight belongs to no group"):
        slots = tuple(slot for slot in layout.slots["conv1"] if slot.tensor != kernel.tensor)
        broken(layout, "conv1", slots).validate(shapes)
    with pytest.raises(ValueError, match=r"covered by no group: \['conv1.norm.running_mean'\]"):
        slots = tuple(slot for slot in layout.slots["conv1"] if slot.tensor != "conv1.norm.running_mean")
        broken(layout, "conv1", slots).validate(shapes)
    with pytest.raises(ValueError, match="group conv2 needs 6"):
        replace(layout, groups={**layout.groups, "conv2": 6}).validate(shapes)


def test_a_table_of_another_network_is_refused() -> None:
    network = build(spec("vgg11", width=5))
    layout, shapes = network.layout, shapes_of(network)
    fewer = {name: shape for name, shape in shapes.items() if name != "conv4.norm.bias"}
    changed = {**shapes, "conv4.norm.bias": (6,)}
    for found in (fewer, changed, {**shapes, "extra.weight": (5,)}, {}):
        with pytest.raises(ValueError, match="layout and network disagree"):
            layout.validate(found)


# --- building ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_build_is_seeded_and_touches_no_global_randomness(arch: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    one = build(spec(arch), seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(999)
        again = build(spec(arch), seed=3).state_dict()
    assert equal(one, again), "nothing of torch's own initialisation is left"
    other = build(spec(arch), seed=4).state_dict()
    drawn = [name for name, tensor in one.items() if tensor.dim() > 1]
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_initial_kernels_have_he_variance() -> None:
    state = build(spec_of("vgg11", num_classes=5, width=0.5)).state_dict()
    for i in range(1, 9):
        kernel = state[f"conv{i}.conv.weight"]
        expected = (2 / (9 * len(kernel))) ** 0.5
        assert float(kernel.std()) == pytest.approx(expected, rel=0.15)
        assert torch.equal(state[f"conv{i}.norm.weight"], torch.ones(len(kernel)))
    assert float(state["head.weight"].abs().max()) <= state["head.weight"].shape[1] ** -0.5
    assert not state["head.bias"].any()


def test_named_builders() -> None:
    assert vgg11(num_classes=5, width=0.125, seed=2).spec == spec_of("vgg11", num_classes=5, width=0.125)
    wide = resnet12(num_classes=5, width=0.125, family="64-160-320-640")
    assert wide.widths["stage4.out"] == 80 and wide.widths["stage2.a"] == 20
    assert equal(vgg11(2, 0.1, seed=2).state_dict(), build(spec_of("vgg11", num_classes=2, width=0.1), 2).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "vgg16"}, "unknown architecture 'vgg16'; known are vgg11, resnet12"),
        (
            {"arch": "vgg11", "family": "64-160-320-640"},
            "vgg11 has no width family '64-160-320-640'; it has 64-128-256-512",
        ),
        ({"arch": "vgg11", "width": 0.0}, r"width multiplier 0.0 is outside \(0, 16\]"),
        ({"arch": "vgg11", "width": -1.0}, "outside"),
        ({"arch": "vgg11", "width": 16.1}, "outside"),
        ({"arch": "vgg11", "width": float("nan")}, "outside"),
        ({"arch": "vgg11", "width": float("inf")}, "outside"),
    ],
)
def test_impossible_specs_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec_of(**{"num_classes": 2, **arguments})  # type: ignore[arg-type]


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown architecture 'alexnet'"):
        build(ArchSpec("alexnet", (("conv1", 4),), 2))
    good = spec("vgg11")
    for widths in (good.widths[:-1], good.widths[::-1], (*good.widths, ("conv9", 4))):
        with pytest.raises(ConfigError, match="vgg11 has the groups"):
            build(ArchSpec("vgg11", widths, 2))
    for widths, classes in ((good.widths, 0), (good.widths, 65_537), ((("conv1", 0),), 2), ((("conv1", 10**9),), 2)):
        with pytest.raises(ValueError, match=r"is outside 1..65536"):
            ArchSpec("vgg11", widths, classes)
    with pytest.raises(KeyError, match="resnet12 has the groups"):
        gene_layout("resnet12", dict(good.widths))
    with pytest.raises(KeyError):
        gene_layout("alexnet", {})
